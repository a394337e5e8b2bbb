"""How windows of concurrent streams come together in the decoder, and what waiting for it costs.

    python -m benchmarks.decoder_batches [--repository DIR] [--delays-us 3000,20000]

Each caller speaks one utterance after the other, of lengths drawn anew; all begin at once, or one
by one. A server of its own for every delay. The checkpoint must be an endless one (`make-checkpoint
--endless`); a tiny one is made if none is named. The last line of stdout is one JSON object.
"""

import json
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.load.profile import Answer
from benchmarks.prepared import prepared
from benchmarks.server_stats import Snapshot, snapshot
from launch.server import Server
from voicereel import Client

TEXT = "So what will you play for us this morning?"
MODEL = "fish_decoder"
_DELAY = re.compile(r"(max_queue_delay_microseconds: )\d+")


@dataclass(frozen=True)
class Load:
    """Attributes:
    callers: Streams at a time.
    utterances: Of each caller, one after the other.
    shortest, longest: Frames of an utterance.
    apart_s: Between one caller's begin and the next one's.
    """

    callers: int
    utterances: int
    shortest: int
    longest: int
    apart_s: float

    def run(self, client: Client) -> list[Answer]:
        """What every caller heard."""
        with ThreadPoolExecutor(self.callers) as pool:
            heard = pool.map(lambda number: self._caller(client, number), range(self.callers))
            return [answer for answers in heard for answer in answers]

    def _caller(self, client: Client, number: int) -> list[Answer]:
        lengths = np.random.default_rng(number).integers(
            self.shortest, self.longest, self.utterances, endpoint=True
        )
        time.sleep(number * self.apart_s)
        return [_heard(client, int(n), number) for n in lengths]


def _heard(client: Client, frames: int, seed: int) -> Answer:
    begin, arrivals, durations = time.perf_counter(), [], []
    for chunk in client.stream(TEXT, max_new_tokens=frames, seed=seed):
        arrivals.append(time.perf_counter() - begin)
        durations.append(len(chunk.waveform) / chunk.sample_rate_hz)
    return Answer(begin, tuple(arrivals), tuple(durations), "length")


def with_delay(repository: Path, delay_us: int, profile: str, folder: Path) -> Path:
    """A repository that differs in nothing but how long the decoder's windows wait for company."""
    for model in repository.iterdir():
        if model.name != MODEL:
            (folder / model.name).symlink_to(model.resolve())
    config = repository / MODEL / "configs" / f"{profile}.pbtxt"
    text, found = _DELAY.subn(rf"\g<1>{delay_us}", config.read_text("utf-8"))
    if found != 1:
        raise ValueError(f"{config}: {found} times max_queue_delay_microseconds, expected once.")
    (folder / MODEL).mkdir()
    (folder / MODEL / "1").symlink_to((repository / MODEL / "1").resolve())
    (folder / MODEL / "config.pbtxt").write_text(text, "utf-8")
    return folder


def measured(answers: list[Answer], used: Snapshot, wall_s: float) -> dict[str, float]:
    """What came of a load."""
    decoder = used.models[MODEL]
    audio_s = sum(a.audio_s for a in answers)
    first, gaps = [a.ttfa_s for a in answers], [g for a in answers for g in a.gaps_s]
    return {
        "windows": decoder.inferences,
        "mean_batch": decoder.mean_batch,
        "audio_s_per_s": audio_s / wall_s,
        "ttfa_s_p50": float(np.median(first)),
        "ttfa_s_p95": float(np.quantile(first, 0.95)),
        "gap_s_p95": float(np.quantile(gaps, 0.95)) if gaps else 0.0,
        "queue_s": decoder.queue_s / max(1, decoder.inferences),
        "compute_s": decoder.compute_s / max(1, decoder.executions),
    }


def main(
    repository: Annotated[Path | None, typer.Option(help="Of an endless checkpoint")] = None,
    profile: Annotated[str, typer.Option(help="Whose decoder is served")] = "cpu",
    delays_us: str = "0,3000,20000",
    callers: int = 16,
    utterances: int = 3,
    frames: Annotated[str, typer.Option(help="Of an utterance, shortest and longest")] = "40,200",
    apart_s: Annotated[float, typer.Option(help="Between one caller's begin and the next")] = 0.1,
) -> None:
    """Measure and print; the table goes to stderr."""
    repository = repository or prepared("tiny", "tiny-endless", "--endless")[1]
    shortest, longest = map(int, frames.split(","))
    rows: list[dict[str, Any]] = []
    for delay_us in map(int, delays_us.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            served = with_delay(repository, delay_us, profile, Path(folder))
            environment = {"VOICEREEL_BATCH_SIZE": str(callers)}
            with (
                Server(served, environment=environment, deadline_s=600) as server,
                Client(server.grpc_url, timeout_s=600) as client,
            ):
                Load(callers, 1, 24, 24, 0.0).run(client)
                for begin, apart in (("at once", 0.0), ("one by one", apart_s)):
                    load = Load(callers, utterances, shortest, longest, apart)
                    before, start = snapshot(server), time.perf_counter()
                    answers = load.run(client)
                    wall_s = time.perf_counter() - start
                    found = measured(answers, snapshot(server) - before, wall_s)
                    rows.append({"delay_us": delay_us, "begin": begin, **found})
    table = Table(*rows[0], title=f"{callers} streams", title_justify="left")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(stderr=True, width=140).print(table)
    result = {"callers": callers, "frames": frames, "rows": rows}
    print(json.dumps(result | {"machine": machine.describe(), "commit": machine.commit()}))


if __name__ == "__main__":
    typer.run(main)
