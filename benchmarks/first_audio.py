"""The way to the first audio of a request alone, hop by hop, from the server's own counters.

    python -m benchmarks.first_audio [--repository DIR] [--delays-us 3000,0] [--picture FILE]

Every delay, which a window waits for others to share its batch, gets a server of its own. The last
line of stdout is one JSON object. Spans of one request: `python -m benchmarks.observed.trace`.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks.answers import heard
from benchmarks.load.decoder_batches import TEXT, with_delay
from benchmarks.prepared import ROOT, prepared, served
from benchmarks.report import console, finish, new_figure
from benchmarks.server_stats import Snapshot, snapshot
from ensemble.contract.options import Sampling
from launch.server import Server
from voicereel import Client, VoiceFeatures

FRAMES = Sampling().first_chunk_frames
HOPS = ("prompt", "prefill", "first frames", "rest of the LLaMA stage", "window waits", "decode",
        "client, ensemble, return")  # fmt: skip
_PHASE = 'fish_llama_seconds_total{phase="%s"}'


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: the demo voice.")] = None,
    profile: Annotated[str, typer.Option(help="Whose decoder is served.")] = "cpu",
    delays_us: Annotated[str, typer.Option(help="By comma; the committed one is 3000.")] = "3000,0",
    repeats: Annotated[int, typer.Option(help="Requests, one after the other.")] = 20,
    picture: Annotated[Path, typer.Option(help="PNG file.")] = ROOT / "out" / "first_audio.png",
) -> None:
    """Measure, print and draw."""
    asked = repository or prepared("demo", "demo")[1]
    found: dict[str, dict[str, float]] = {}
    for delay in delays_us.split(","):
        with tempfile.TemporaryDirectory() as folder:
            changed = with_delay(asked, int(delay), profile, Path(folder))
            with served(changed) as (server, client):
                measure(server, client, 2)  # the first requests are slow
                found[f"{delay} us of waiting"] = measure(server, client, repeats)
    table = Table("hop", *found, title="ms to the first audio", title_justify="left")
    for hop in (*HOPS, "first audio"):
        table.add_row(hop, *(f"{1e3 * of[hop]:.1f}" for of in found.values()))
    console.print(table)
    draw(found, picture)
    finish({"first_audio_s": found, "repeats": repeats, "picture": str(picture)})


def measure(
    server: Server, client: Client, repeats: int, voice: VoiceFeatures | None = None
) -> dict[str, float]:
    """Ask for one first window after the other while the server has nothing else to do.

    Args:
        server: Started.
        client: A client of it.
        repeats: Requests.
        voice: Of all of them.

    Returns:
        Mean seconds of each of `HOPS`, and their sum, `first audio`, as the client hears it; and
        `median`, of the same.
    """
    before, heard_s = snapshot(server), []
    for seed in range(repeats):
        stream = client.stream(TEXT, voice, max_new_tokens=FRAMES, seed=seed)
        heard_s.append(heard(lambda stream=stream: stream).ttfa_s)
    found = hops(snapshot(server) - before, statistics.mean(heard_s))
    return found | {"median": statistics.median(heard_s)}


def hops(used: Snapshot, first_audio_s: float) -> dict[str, float]:
    """Where the time to the first audio went.

    Args:
        used: What the server did for requests that came one by one and had one window each.
        first_audio_s: Mean seconds until a client heard it.
    """
    prompt, decoder, metrics = used.models["fish_prompt"], used.models["fish_decoder"], used.metrics
    count = metrics["fish_llama_first_windows_total"] or 1.0
    phases = {p: metrics[_PHASE % p] for p in ("prefill", "decode_step", "sample", "fast_loop")}
    prefill_s = phases.pop("prefill")
    frames_s = sum(phases.values())
    spent = (
        prompt.queue_s + prompt.compute_s,
        prefill_s,
        frames_s,
        metrics["fish_llama_first_window_seconds_total"] - prefill_s - frames_s,
        decoder.queue_s,
        decoder.compute_s,
    )
    found = {hop: seconds / count for hop, seconds in zip(HOPS, spent, strict=False)}
    return found | {HOPS[-1]: first_audio_s - sum(found.values()), "first audio": first_audio_s}


def draw(found: dict[str, dict[str, float]], picture: Path) -> None:
    """Draw a bar for each measurement, its hops in order."""
    figure = new_figure(10, 1.6 + 0.5 * len(found))
    bars(figure.subplots(), found)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)


def bars(axis: Any, found: dict[str, dict[str, float]]) -> None:
    """Into a panel of a picture."""
    for row, of in enumerate(found.values()):
        left = 0.0
        for number, hop in enumerate(HOPS):
            label = hop if not row else None
            axis.barh(row, 1e3 * of[hop], left=left, color=f"C{number}", label=label)
            left += 1e3 * of[hop]
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.set(xlabel="ms to the first audio of a request alone")
    axis.legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


if __name__ == "__main__":
    typer.run(main)
