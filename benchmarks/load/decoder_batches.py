"""How windows of concurrent streams share batches in the decoder, and what waiting for it costs.

    python -m benchmarks.load.decoder_batches [--repository DIR] [--delays-us 3000,20000]

Each caller asks for one utterance after the other, of random lengths; the callers begin all at
once, or one by one. Every delay gets a server of its own. The checkpoint must be an endless one
(`make-checkpoint --endless`); a tiny one is made if none is named. The last line of stdout is one
JSON object.
"""

import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import answers
from benchmarks.answers import Answer, heard
from benchmarks.prepared import endless, served
from benchmarks.report import finish
from benchmarks.server_stats import Snapshot, snapshot
from launch.server import Server
from voicereel import Client

TEXT = "So what will you play for us this morning?"
MODEL = "fish_decoder"
WARM_UP_FRAMES = 24  # one second
_DELAY = re.compile(r"(max_queue_delay_microseconds: )\d+")


@dataclass(frozen=True)
class Callers:
    """Attributes:
    count: Streams at a time.
    utterances: Utterances of each caller, one after the other.
    shortest, longest: Frames of an utterance.
    apart_s: Time from one caller's begin to the next one's.
    """

    count: int
    utterances: int
    shortest: int
    longest: int
    apart_s: float

    def run(self, client: Client) -> list[Answer]:
        """What all callers heard."""
        with ThreadPoolExecutor(self.count) as pool:
            found = pool.map(lambda number: self._caller(client, number), range(self.count))
            return [answer for of_one in found for answer in of_one]

    def _caller(self, client: Client, number: int) -> list[Answer]:
        lengths = np.random.default_rng(number).integers(
            self.shortest, self.longest, self.utterances, endpoint=True
        )
        time.sleep(number * self.apart_s)
        return [
            heard(lambda n=n: client.stream(TEXT, max_new_tokens=int(n), seed=number))
            for n in lengths
        ]


def with_delay(repository: Path, delay_us: int, profile: str, folder: Path) -> Path:
    """A repository that differs only in how long a window waits for others to share its batch."""
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


def figures(found: list[Answer], used: Snapshot) -> dict[str, float]:
    """The row of one load: what callers heard, and what the decoder did."""
    decoder, load = used.models[MODEL], answers.summary(found)
    return {
        "windows": decoder.inferences,
        "mean_batch": decoder.mean_batch,
        "audio_s_per_s": 1 / load["rtf"],
        **{name: load[name] for name in ("ttfa_s_p50", "ttfa_s_p95", "gap_s_p95")},
        "queue_s": decoder.queue_s / max(1, decoder.inferences),
        "compute_s": decoder.compute_s / max(1, decoder.executions),
    }


def measured(server: Server, client: Client, callers: Callers) -> Iterator[dict[str, Any]]:
    """Rows of one server: callers that begin at once, and `apart_s` after each other."""
    replace(
        callers, utterances=1, shortest=WARM_UP_FRAMES, longest=WARM_UP_FRAMES, apart_s=0.0
    ).run(client)
    for begin, apart_s in (("at once", 0.0), ("one by one", callers.apart_s)):
        before = snapshot(server)
        found = replace(callers, apart_s=apart_s).run(client)
        yield {"begin": begin, **figures(found, snapshot(server) - before)}


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
    repository = repository or endless(quick=True)[1]
    shortest, longest = map(int, frames.split(","))
    load = Callers(callers, utterances, shortest, longest, apart_s)
    rows: list[dict[str, Any]] = []
    for delay_us in map(int, delays_us.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            delayed = with_delay(repository, delay_us, profile, Path(folder))
            with served(delayed, {"VOICEREEL_BATCH_SIZE": str(callers)}) as (server, client):
                rows += [{"delay_us": delay_us, **row} for row in measured(server, client, load)]
    table = Table(*rows[0], title=f"{callers} streams", title_justify="left")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(stderr=True, width=140).print(table)
    finish({"callers": callers, "frames": frames, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
