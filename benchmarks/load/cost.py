"""`make cost`: wall time and memory against size; the part of benchmarks/report.md on that.

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
from benchmarks.load import report as load_report
from benchmarks.load import rows
from benchmarks.prepared import ROOT, console, prepared
from benchmarks.server_stats import memory_bytes
from ensemble.contract.facts import Facts
from launch.server import Server
from voicereel import Audio, Client, VoiceFeatures, stream_script
from voicereel.audio import CODEC_SAMPLE_RATE_HZ, read_recording

FRAMES = 43  # of a segment: two seconds
FRAMES_PER_CHARACTER = 1.4  # 15 characters and 21.5 frames a second: the speed of speech
SEGMENTS = (1, 2, 4, 8, 15, 30, 45, 60)
CHARACTERS = (25, 50, 100, 200, 400, 600, 800)
REFERENCE_S = (1, 2, 5, 10, 20, 30)
SCRIPTS = (1, 2, 4, 8, 12)
SEGMENTS_OF_A_SCRIPT = 5
TEXT = demo.SCRIPT[0][1]


@dataclass(frozen=True)
class Curve:
    """Attributes:
    name: What grows.
    unit: Of the sizes.
    sizes: Rising.
    seconds: Wall time of each.
    memory_mib: Of the server, after each.
    exponent: Slope of log(seconds) over log(size) in the upper half.
    bend: Cost of one more at the end over cost of one more on average.
    """

    name: str
    unit: str
    sizes: list[float]
    seconds: list[float]
    memory_mib: list[float]
    exponent: float
    bend: float


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Least squares in the logarithms, over the upper half of the points; 1 is linear."""
    half = len(sizes) // 2
    slope, _ = np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)
    return float(slope)


def bend(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """(Cost of one more over the last interval) / (cost of one more over all); 1 is straight."""
    last = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
    return last / ((seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0]))


@dataclass
class Costs:
    """A warm server, and what is asked of it.

    Attributes:
        server: Started.
        client: Of it.
        voice: That speaks.
        repeats: Of each point; the median counts.
    """

    server: Server
    client: Client
    voice: VoiceFeatures
    repeats: int

    def curve(
        self, name: str, unit: str, sizes: Sequence[int], ask: Callable[[int], None]
    ) -> Curve:
        """Measure one: `ask` does what a size stands for."""
        ask(sizes[-1])  # whatever is made on first need is made now
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
        self.segments(16)
        return self.memory_mib()

    @staticmethod
    def _heard(pieces: Iterable[object]) -> None:
        for _ in pieces:
            pass

    def memory_mib(self) -> float:
        return memory_bytes(self.server) / 2**20

    def segments(self, count: int, seed: int = 0) -> None:
        """One script of so many segments."""
        texts = rows.texts()
        script = [
            {"speaker_id": "A", "text": texts[i % len(texts)][1], "options": {"seed": seed + i}}
            for i in range(count)
        ]
        pieces = stream_script(
            self.client, script, {"A": self.voice}, max_workers=16, max_new_tokens=FRAMES
        )
        self._heard(pieces)

    def characters(self, count: int) -> None:
        """One text of so many characters, in one answer of the length that speech has."""
        text = " ".join(text for language, text in rows.texts() if language == "en")
        frames = round(count * FRAMES_PER_CHARACTER)
        self._heard(self.client.stream(text[:count], self.voice, seed=0, max_new_tokens=frames))

    def reference(self, seconds: int) -> None:
        """A recording of so many seconds, encoded, and a segment in its voice."""
        with tempfile.TemporaryDirectory() as folder:
            path = _unheard(seconds, Path(folder))
            voice = self.client.encode_voice(path, demo.WORDS["Alice"])
        self._heard(self.client.stream(TEXT, voice, seed=0, max_new_tokens=FRAMES))

    def scripts(self, count: int) -> None:
        """So many scripts at the same time."""
        with ThreadPoolExecutor(count) as pool:
            seeds = range(0, 100 * count, 100)
            list(pool.map(lambda seed: self.segments(SEGMENTS_OF_A_SCRIPT, seed), seeds))


def _unheard(seconds: int, folder: Path) -> Path:
    """Alice over and over, with a noise that no cache has heard: a file in the folder."""
    waveform = read_recording(demo.VOICES / "alice.flac")
    samples = np.resize(waveform, seconds * CODEC_SAMPLE_RATE_HZ)
    noise = np.random.default_rng(time.monotonic_ns()).normal(0, 1e-3, len(samples))
    path = folder / "reference.wav"
    Audio((samples + noise).astype(np.float32), CODEC_SAMPLE_RATE_HZ, "stop").save(path)
    return path


def all_curves(costs: Costs, largest: float) -> list[Curve]:
    """Measure them; nothing larger than that share of the largest size."""
    wanted = (
        ("segments", "of 2 s", SEGMENTS, costs.segments),
        ("text", "characters", CHARACTERS, costs.characters),
        ("reference", "s, encoded each time", REFERENCE_S, costs.reference),
        ("scripts at once", "of 5 segments", SCRIPTS, costs.scripts),
    )
    return [
        costs.curve(name, unit, [size for size in sizes if size <= largest * sizes[-1]], ask)
        for name, unit, sizes, ask in wanted
    ]


def main(
    repository: Annotated[Path | None, typer.Option(help="Of an endless checkpoint.")] = None,
    report: Annotated[Path, typer.Option(help="Folder of report.md.")] = load_report.RESULTS,
    name: Annotated[str, typer.Option(help="Of the results: report/cost-NAME.json.")] = "tiny",
    largest: Annotated[float, typer.Option(help="Leave out what is larger than this share.")] = 1.0,
    repeats: Annotated[int, typer.Option(help="Of each point; the median counts.")] = 3,
    rounds: Annotated[int, typer.Option(help="Equal ones, to watch the memory.")] = 10,
) -> None:
    """Measure the curves and render the report anew; the last line on stdout is JSON."""
    served = repository or prepared("tiny", "tiny-endless", "--endless")[1]
    facts = Facts.load(served / "fish_llama" / "1")
    log = ROOT / "out" / "cost.server.log"
    log.parent.mkdir(exist_ok=True)
    with Server(served, log_path=log) as server, Client(server.grpc_url) as client:
        voice = client.encode_voice(demo.VOICES / "alice.flac", demo.WORDS["Alice"])
        costs = Costs(server, client, voice, repeats)
        costs.segments(16)  # warm-up
        curves = all_curves(costs, largest)
        memory = [costs.memory_after_a_round() for _ in range(rounds)]
    series: dict[str, Any] = {
        "title": f"{name}, {facts.num_layers} layers",
        "command": shlex.join(["python", "-m", "benchmarks.load.cost", *sys.argv[1:]]),
        "machine": machine.describe(),
        "commit": machine.commit(),
        "date": time.strftime("%Y-%m-%d"),
        "note": f"Median of {repeats} runs a point.",
        "curves": [asdict(curve) for curve in curves],
        "memory_mib": memory,
    }
    folder = report / load_report.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"cost-{name}.json").write_text(json.dumps(series, indent=1) + "\n")
    load_report.render(report)
    print(
        json.dumps(
            {c.name: {"exponent": c.exponent, "bend": c.bend} for c in curves}
            | {"memory_mib": memory}
        )
    )


if __name__ == "__main__":
    typer.run(main)
