"""What VOICEREEL_REAL_TIME does: more and more callers, with it off, with waiting, with refusals.

    python -m benchmarks.load.real_time [--repository DIR] [--callers 2,4,8,16] [--seconds 10]

So many callers each ask for one sentence after the other, with a listener for each answer. One who
is refused asks again after as many seconds as the server says. Every setting has a server of its
own. The last line of stdout is one JSON object.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks.answers import GAPS_MS, Answer, gapless, heard, played, summary
from benchmarks.load.breakdown import breakdown
from benchmarks.prepared import PATIENCE_S, prepared, served
from benchmarks.report import console, finish, new_figure
from benchmarks.server_stats import snapshot
from ensemble.contract.settings import REAL_TIME
from launch.server import Server
from voicereel import AudioChunk, Client, Overloaded

VARIABLE = "VOICEREEL_REAL_TIME"
TEXTS = (
    "Good morning, Bob. Did you sleep well?", "So what will you play for us this morning?",
    "The rain came in from the sea.", "Please bring me seven candles.",
)  # fmt: skip
_COLUMNS = {  # of the table: heading -> column of a row
    "setting": "setting", "callers": "callers", "answers": "answers", "refused": "refused",
    "in work": "llama_batch", "in time": "in_time",
    "first audio p50, s": "ttfa_s_p50", "p95": "ttfa_s_p95",
    "audio s per s": "audio_s_per_s", "underrun, s": "underrun_s",
    **{f"no gap over {ms} ms, %": gapless(ms) for ms in GAPS_MS},
}  # fmt: skip


@dataclass(frozen=True)
class Caller:
    """Asks for one text after the other.

    Attributes:
        client: To a server.
        texts: In turn.
        max_frames: Longest answer, 2048 samples each.
        listening: Whether it hears an answer to its end before it asks again.
    """

    client: Client
    texts: Sequence[str]
    max_frames: int
    listening: bool = False

    def answers(self, number: int, until: float) -> tuple[list[Answer], int]:
        """Answers to one of several callers, and how often it was refused."""
        answers: list[Answer] = []
        refusals = 0
        if self.listening:
            time.sleep(number * 0.37 % 1)  # they do not begin together
        while time.monotonic() < until or not (answers or number):  # the first has one in any case
            begin, turn = time.monotonic(), len(answers) + number
            try:
                answers.append(heard(lambda t=turn: self._asked(t, 100 * number + len(answers))))
            except Overloaded as refusal:
                refusals += 1
                time.sleep(refusal.retry_after_s or 1.0)
            else:
                if self.listening:
                    heard_s = answers[-1].ttfa_s + answers[-1].audio_s
                    heard_s += played(answers[-1]).underrun_s
                    time.sleep(max(0.0, begin + heard_s - time.monotonic()))
        return answers, refusals

    def _asked(self, turn: int, seed: int) -> Iterator[AudioChunk]:
        text = self.texts[turn % len(self.texts)]
        return self.client.stream(text, seed=seed, max_new_tokens=self.max_frames)


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: the demo voice.")] = None,
    callers: Annotated[str, typer.Option(help="At a time, one load for each number.")] = "2,4,8,16",
    seconds: Annotated[float, typer.Option(min=0, help="Of each load.")] = 10.0,
    max_frames: Annotated[int, typer.Option(help="Longest answer, 2048 samples each.")] = 129,
    settings: Annotated[str, typer.Option(help="Of VOICEREEL_REAL_TIME.")] = ",".join(REAL_TIME),
    listening: Annotated[
        bool, typer.Option(help="A caller hears an answer to its end before it asks again.")
    ] = False,
    image: Annotated[Path | None, typer.Option(help="For the plot.")] = None,
) -> None:
    """Measure every setting with each number of callers."""
    texts = (" ".join(TEXTS),) if listening else TEXTS  # long, so that streams get far ahead
    repository = repository or prepared("demo", "demo")[1]
    counts, rows = [int(count) for count in callers.split(",")], []
    for setting in settings.split(","):
        with (
            served(repository, {VARIABLE: setting}) as (server, _),
            Client(server.grpc_url, timeout_s=PATIENCE_S, return_s=0) as client,
        ):
            warm = Caller(client, texts, max_frames)
            measured(server, warm, max(counts), seconds / 3)  # the first are slow
            for count in counts:
                row = {"setting": setting, "callers": count}
                row |= measured(server, replace(warm, listening=listening), count, seconds)
                rows.append(row)
                console.print(json.dumps(row), soft_wrap=True, highlight=False)
    console.print(_table(rows))
    if image is not None:
        plot(rows, image)
    finish({"rows": rows})


def measured(server: Server, caller: Caller, callers: int, seconds: float) -> dict[str, Any]:
    """What so many callers heard in so many seconds, and how often they were refused."""
    before, until = snapshot(server), time.monotonic() + seconds
    with ThreadPoolExecutor(callers) as pool:
        ended = list(pool.map(lambda number: caller.answers(number, until), range(callers)))
    after = snapshot(server)
    used = breakdown(after - before)
    heard_by_all = summary([answer for answers, _ in ended for answer in answers])
    kept = (
        "answers",
        "ttfa_s_p50",
        "ttfa_s_p95",
        "underruns",
        "underrun_s",
        *map(gapless, GAPS_MS),
    )
    return {
        "refused": sum(refusals for _, refusals in ended),
        "audio_s_per_s": 1 / heard_by_all["rtf"],
        "in_time": after.metrics["fish_llama_streams_in_time"],  # by the estimate, at the end
        **{name: heard_by_all[name] for name in kept},
        **{name: used[name] for name in ("llama_batch", "decoder_batch")},
    }


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(*_COLUMNS)
    for row in rows:
        values = [
            100 * row[name] if name.startswith("share") else row[name] for name in _COLUMNS.values()
        ]
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    return table


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Silence, answers without a gap, first audio and audio made, against callers."""
    figure = new_figure(13, 3.6)
    panels = {
        "silence, s for each answer": lambda row: row["underrun_s"] / row["answers"],
        f"answers without a gap over {GAPS_MS[1]} ms, %": lambda row: (
            100 * row[gapless(GAPS_MS[1])]
        ),
        "first audio, median, s": lambda row: row["ttfa_s_p50"],
        "seconds of audio a second": lambda row: row["audio_s_per_s"],
    }
    for axis, (label, value) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for setting in dict.fromkeys(row["setting"] for row in rows):
            mine = [row for row in rows if row["setting"] == setting]
            axis.plot([r["callers"] for r in mine], [value(r) for r in mine], "o-", label=setting)
        axis.set(xlabel="callers", title=label, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    typer.run(main)
