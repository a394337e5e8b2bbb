"""Times a script of two speakers through both engines, against the target: 30 s of audio in 8 s.

    python tools/benchmark_performance.py --segments 15 --runs 3 --engine both --output results.json

The optimized engine speaks through the server at --url (or VOICEREEL_URL), through one started on
--repository, or, where there is neither, through one started on a small checkpoint of random
weights, made for it. The regular engine runs upstream's own code on the same checkpoint.

Every segment ends after --frames frames (43: 2 s) at the latest; a checkpoint that ends earlier
gives less audio, which the result says. Whatever comes out, 8 s are allowed for 30 s of it, and in
proportion for 15 s or more; less proves nothing. Exit code 0 is PASS, 1 is FAIL.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine, workload
from benchmarks.measured import Measured, warmed_up
from benchmarks.prepared import PATIENCE_S, ROOT, endless, served
from benchmarks.report import console
from families.fish_s1.checkpoint import load_checkpoint
from families.fish_s1.weights import CheckpointError
from launch.server import LaunchError
from voicereel import Client, ConfigurationError, VoiceReelError
from voicereel.engine import Engine
from voicereel.fish_speech_regular import RegularSpeaker
from voicereel.performance_optimizer import TARGET_AUDIO_S, allowed_s
from voicereel.settings import listed, settings

PACKAGES = ("numpy", "torch", "tritonclient", "nvidia-pytriton", "onnxruntime-gpu", "fish-speech")


def main(
    segments: Annotated[int, typer.Option(min=1)] = 15,
    runs: Annotated[int, typer.Option(min=1)] = 3,
    engine: Annotated[Literal["regular", "optimized", "both"], typer.Option()] = "both",
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    url: Annotated[str | None, typer.Option(help="HOST:PORT of a running server.")] = None,
    repository: Annotated[Path | None, typer.Option(help="Start a server on it.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Of the regular engine.")] = None,
    frames: Annotated[int, typer.Option(help="Of a segment at most.", min=1)] = workload.FRAMES,
    workers: Annotated[int | None, typer.Option(help="In flight; all if left out.")] = None,
    regular_segments: Annotated[
        int | None, typer.Option(help="Fewer for the regular engine, which takes its time.")
    ] = None,
) -> None:
    """Measure, print a table, and end in PASS or FAIL."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("voicereel").setLevel(logging.INFO)
    measured: dict[str, Measured] = {}
    script = workload.script(segments)
    try:
        with _server_of(url, repository) as (client, what):
            if engine != "regular":
                optimized = Engine(client, settings())
                measured["optimized"] = warmed_up(optimized, script, workers or segments)
            if engine != "optimized":
                folder = checkpoint or settings().checkpoint or _checkpoint_of(client)
                regular = Engine(RegularSpeaker(folder), settings())
                measured["regular"] = warmed_up(regular, script[:regular_segments], 1)
            for _ in range(runs):
                for name, each in measured.items():
                    each.run(name, frames)
    except (VoiceReelError, LaunchError, CheckpointError) as error:
        console.print(f"[red]benchmark:[/red] {error}", highlight=False)
        raise typer.Exit(2) from None
    result = _result(measured, what, frames)
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _show(result, measured)
    raise typer.Exit(0 if result["passed"] else 1)


@contextlib.contextmanager
def _server_of(url: str | None, repository: Path | None) -> Iterator[tuple[Client, str]]:
    """A client of the server that is asked for, and in words what that server is."""
    if repository is None:
        named = url or settings().url
        with Client(named, timeout_s=PATIENCE_S) as client:
            if client.ready():
                yield client, f"server at {named}"
                return
        if url or "url" in settings().model_fields_set:
            raise ConfigurationError(f"no server is ready at {named}. Start it: make serve")
        console.print("no server runs: making and serving a small checkpoint of random weights")
        repository = endless(quick=True)[1]
    with served(repository) as (_, client):
        yield client, str(repository)


def _checkpoint_of(client: Client) -> Path:
    """The folder in checkpoints/ that the server's artefacts were made of."""
    recording = ROOT / "assets" / "voices" / "alice.flac"
    checkpoint_id = client.encode_voice(recording, workload.SPEAKERS["alice"]).checkpoint_id
    for config in sorted((ROOT / "checkpoints").glob("*/config.json")):
        with contextlib.suppress(CheckpointError):
            if load_checkpoint(config.parent).checkpoint_id == checkpoint_id:
                return config.parent
    raise ConfigurationError(
        f"the server speaks checkpoint {checkpoint_id}, which is not in checkpoints/. Give its "
        "folder with --checkpoint, or measure only --engine optimized"
    )


def _result(measured: dict[str, Measured], what: str, frames: int) -> dict[str, Any]:
    engines = {name: each.summary() for name, each in measured.items()}
    judged = engines.get("optimized") or engines["regular"]
    voice = next(iter(next(iter(measured.values())).voices.values()))
    result: dict[str, Any] = {
        "passed": judged["passed"],
        "engines": engines,
        "frames": frames,
        "served": what,
        "checkpoint_id": voice.checkpoint_id,
        "settings": {s.variable: str(s.value) for s in listed(settings())},
        "machine": machine.describe(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": machine.commit(),
    }
    if len(engines) == 2:
        result["speedup"] = engines["regular"]["rtf"] / engines["optimized"]["rtf"]
    return result


def _show(result: dict[str, Any], measured: dict[str, Measured]) -> None:
    for name, each in measured.items():
        logging.info(f"{name}:")
        each.engine.monitor.log_summary()
    Console().print(_table(result))
    print(_verdict(result))


def _table(result: dict[str, Any]) -> Table:
    table = Table("engine", title=f"{result['served']}, commit {result['commit']}")
    for column in ("segments", "audio s", "time s", "RTF", "allowed s", "speed-up"):
        table.add_column(column, justify="right")
    table.add_column("target")
    slowest = max(engine["rtf"] for engine in result["engines"].values())
    for name, engine in result["engines"].items():
        figures = (engine["audio_s"], engine["wall_s"], engine["rtf"], engine["allowed_s"])
        shown = [f"{figure:.2f}" for figure in figures] + [f"{slowest / engine['rtf']:.1f}x"]
        table.add_row(
            name, str(engine["segments"]), *shown, "met" if engine["passed"] else "missed"
        )
    return table


def _verdict(result: dict[str, Any]) -> str:
    name = "optimized" if "optimized" in result["engines"] else "regular"
    judged = result["engines"][name]
    said = (
        f"{name} engine, {judged['audio_s']:.1f} s of audio in {judged['wall_s']:.1f} s, allowed "
        f"{judged['allowed_s']:.1f} s ({TARGET_AUDIO_S:.0f} s in {allowed_s(TARGET_AUDIO_S):.0f} s)"
    )
    return f"{'PASS' if result['passed'] else 'FAIL'}: {said}"
