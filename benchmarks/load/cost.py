"""`make cost`: wall time and memory against size, for the second part of results/report.md.

The checkpoint must be an endless one (`make-checkpoint --endless`), so that every answer has as
many frames as are asked for; a tiny one is made if none is named.
"""

import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import machine
from benchmarks.demo import run as demo
from benchmarks.growth import bend, exponent
from benchmarks.load import report as load_report
from benchmarks.load import rows
from benchmarks.prepared import ROOT, endless, served
from benchmarks.report import RESULTS, console
from benchmarks.server_stats import memory_bytes
from ensemble.contract.facts import Facts
from launch.server import Server
from voicereel import Audio, Client, VoiceFeatures, stream_script
from voicereel.audio import CODEC_SAMPLE_RATE_HZ, read_recording

FRAMES = 43  # of a segment: 2 s
FRAMES_PER_CHARACTER = 1.4  # 21.5 frames and about 15 characters a second of speech
SEGMENTS = (1, 2, 4, 8, 15, 30, 45, 60)
CHARACTERS = (25, 50, 100, 200, 400, 600, 800)
REFERENCE_S = (1, 2, 5, 10, 20, 30)
SCRIPTS = (1, 2, 4, 8, 12)
SEGMENTS_OF_A_SCRIPT = 5
IN_FLIGHT = 16  # segments of one script
WARM_UP_SEGMENTS = IN_FLIGHT  # as many as are ever in flight together
TEXT = demo.SCRIPT[0][1]


@dataclass(frozen=True)
class Curve:
    """Attributes:
    name: What grows.
    unit: Unit of the sizes.
    sizes: Sizes, rising.
    seconds: Median wall time of each size.
    memory_mib: Memory of the server after each size.
    exponent: See `benchmarks.growth.exponent`.
    bend: See `benchmarks.growth.bend`.
    """

    name: str
    unit: str
    sizes: list[float]
    seconds: list[float]
    memory_mib: list[float]
    exponent: float
    bend: float


@dataclass
class Costs:
    """Requests of rising size to a server.

    Attributes:
        server: Started.
        client: A client of it.
        voice: The voice of all requests.
        repeats: Runs of each point; the median counts.
    """

    server: Server
    client: Client
    voice: VoiceFeatures
    repeats: int

    def curve(
        self, name: str, unit: str, sizes: Sequence[int], ask: Callable[[int], None]
    ) -> Curve:
        """Measure one curve; `ask` makes the requests that a size stands for."""
        ask(sizes[-1])  # whatever the server makes on first need, it makes now
        seconds, memory = [], []
        for size in sizes:
            times = [self._seconds(ask, size) for _ in range(self.repeats)]
            seconds.append(statistics.median(times))
            memory.append(self.memory_mib())
            console.print(f"{name} {size}: {seconds[-1]:.2f} s, {memory[-1]:.0f} MiB")
        return Curve(
            name, unit, list(map(float, sizes)), seconds, memory,
            exponent(sizes, seconds), bend(sizes, seconds),
        )  # fmt: skip

    def _seconds(self, ask: Callable[[int], None], size: int) -> float:
        begin = time.perf_counter()
        ask(size)
        return time.perf_counter() - begin

    def memory_after_a_round(self) -> float:
        """Memory of the server in MiB after one more of several equal rounds."""
        self.segments(WARM_UP_SEGMENTS)
        return self.memory_mib()

    @staticmethod
    def _heard(pieces: Iterable[object]) -> None:
        for _ in pieces:
            pass

    def memory_mib(self) -> float:
        """Memory of the server now."""
        return memory_bytes(self.server) / 2**20

    def segments(self, count: int, seed: int = 0) -> None:
        """Speak one script of `count` segments."""
        texts = rows.texts()
        script = [
            {"speaker_id": "A", "text": texts[i % len(texts)][1], "options": {"seed": seed + i}}
            for i in range(count)
        ]
        pieces = stream_script(
            self.client, script, {"A": self.voice}, max_workers=IN_FLIGHT, max_new_tokens=FRAMES
        )
        self._heard(pieces)

    def characters(self, count: int) -> None:
        """Speak one text of `count` characters, in as many frames as speech would take."""
        text = " ".join(text for language, text in rows.texts() if language == "en")
        frames = round(count * FRAMES_PER_CHARACTER)
        self._heard(self.client.stream(text[:count], self.voice, seed=0, max_new_tokens=frames))

    def reference(self, seconds: int) -> None:
        """Encode a recording of `seconds`, and speak a segment in its voice."""
        with tempfile.TemporaryDirectory() as folder:
            path = _fresh_recording(seconds, Path(folder))
            voice = self.client.encode_voice(path, demo.WORDS["Alice"])
        self._heard(self.client.stream(TEXT, voice, seed=0, max_new_tokens=FRAMES))

    def scripts(self, count: int) -> None:
        """Speak `count` scripts at the same time."""
        with ThreadPoolExecutor(count) as pool:
            seeds = range(0, 100 * count, 100)
            list(pool.map(lambda seed: self.segments(SEGMENTS_OF_A_SCRIPT, seed), seeds))


def _fresh_recording(seconds: int, folder: Path) -> Path:
    """A file of Alice's recording, repeated, with a little noise so that no cache knows it."""
    waveform = read_recording(demo.VOICES / "alice.flac")
    samples = np.resize(waveform, seconds * CODEC_SAMPLE_RATE_HZ)
    noise = np.random.default_rng(time.monotonic_ns()).normal(0, 1e-3, len(samples))
    path = folder / "reference.wav"
    Audio((samples + noise).astype(np.float32), CODEC_SAMPLE_RATE_HZ, "stop").save(path)
    return path


def all_curves(costs: Costs, largest: float) -> list[Curve]:
    """Measure all curves to the share `largest` of the largest size, with three sizes at least."""
    wanted = (
        ("segments", "of 2 s", SEGMENTS, costs.segments),
        ("text", "characters", CHARACTERS, costs.characters),
        ("reference", "s, encoded each time", REFERENCE_S, costs.reference),
        ("scripts at once", "of 5 segments", SCRIPTS, costs.scripts),
    )
    return [
        costs.curve(name, unit, [s for s in sizes if s <= max(largest * sizes[-1], sizes[2])], ask)
        for name, unit, sizes, ask in wanted
    ]


def main(
    repository: Annotated[Path | None, typer.Option(help="Of an endless checkpoint.")] = None,
    report: Annotated[Path, typer.Option(help="Folder of report.md.")] = RESULTS,
    name: Annotated[str, typer.Option(help="Results go to report/cost-NAME.json.")] = "tiny",
    largest: Annotated[float, typer.Option(help="Share of the largest size to end at.")] = 1.0,
    repeats: Annotated[int, typer.Option(help="Of each point; the median counts.")] = 3,
    rounds: Annotated[int, typer.Option(help="Equal ones, to watch the memory.")] = 10,
) -> None:
    """Measure the curves and render the report anew; the last line on stdout is JSON."""
    repository = repository or endless(quick=True)[1]
    log = ROOT / "out" / "cost.server.log"
    log.parent.mkdir(exist_ok=True)
    with served(repository, log_path=log) as (server, client):
        costs = Costs(server, client, demo.encoded(client)["Alice"], repeats)
        costs.segments(WARM_UP_SEGMENTS)
        curves = all_curves(costs, largest)
        memory = [costs.memory_after_a_round() for _ in range(rounds)]
    layers = Facts.load(repository / "fish_llama" / "1").num_layers
    series: dict[str, Any] = {
        "title": f"{name}, {layers} layers",
        "command": shlex.join(["python", "-m", "benchmarks.load.cost", *sys.argv[1:]]),
        "machine": machine.describe(),
        "commit": machine.commit(),
        "date": time.strftime("%Y-%m-%d"),
        "note": f"Median of {repeats} runs a point.",
        "curves": [asdict(curve) for curve in curves],
        "memory_mib": memory,
    }
    load_report.write_cost(report, name, series)
    found = {c.name: {"exponent": c.exponent, "bend": c.bend} for c in curves}
    print(json.dumps(found | {"memory_mib": memory}))


if __name__ == "__main__":
    typer.run(main)
