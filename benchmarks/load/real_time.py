"""What VOICEREEL_REAL_TIME does: more and more callers, with it off, with waiting, with refusals.

    python -m benchmarks.load.real_time [--repository DIR] [--callers 2,4,8,16] [--seconds 10]

So many callers each ask for one sentence after the other, with a listener for each answer. One who
is refused asks again after as many seconds as the server says. Every setting has a server of its
own. The last line of stdout is one JSON object.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure  # without pyplot it needs no display and no backend
from rich.table import Table

from benchmarks.answers import GAPS_MS, Answer, gapless, heard, summary
from benchmarks.load.breakdown import breakdown
from benchmarks.prepared import PATIENCE_S, prepared, served
from benchmarks.report import console, finish
from benchmarks.server_stats import snapshot
from ensemble.contract.settings import REAL_TIME
from launch.server import Server
from voicereel import Client, Overloaded

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


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: the demo voice.")] = None,
    callers: Annotated[str, typer.Option(help="At a time, one load for each number.")] = "2,4,8,16",
    seconds: Annotated[float, typer.Option(min=0, help="Of each load.")] = 10.0,
    max_frames: Annotated[int, typer.Option(help="Longest answer, 2048 samples each.")] = 129,
    settings: Annotated[str, typer.Option(help="Of VOICEREEL_REAL_TIME.")] = ",".join(REAL_TIME),
    image: Annotated[Path | None, typer.Option(help="For the plot.")] = None,
) -> None:
    """Measure every setting with each number of callers."""
    repository = repository or prepared("demo", "demo")[1]
    counts, rows = [int(count) for count in callers.split(",")], []
    for setting in settings.split(","):
        with (
            served(repository, {VARIABLE: setting}) as (server, _),
            Client(server.grpc_url, timeout_s=PATIENCE_S, return_s=0) as client,
        ):
            measured(server, client, max(counts), seconds / 3, max_frames)  # the first are slow
            for count in counts:
                row = {"setting": setting, "callers": count}
                row |= measured(server, client, count, seconds, max_frames)
                rows.append(row)
                console.print(json.dumps(row), soft_wrap=True, highlight=False)
    console.print(_table(rows))
    if image is not None:
        plot(rows, image)
    finish({"rows": rows})


def measured(
    server: Server, client: Client, callers: int, seconds: float, max_frames: int
) -> dict[str, Any]:
    """What so many callers heard in so many seconds, and how often they were refused."""
    before, until = snapshot(server), time.monotonic() + seconds
    with ThreadPoolExecutor(callers) as pool:
        ended = list(
            pool.map(lambda number: _caller(client, number, until, max_frames), range(callers))
        )
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


def _caller(client: Client, number: int, until: float, max_frames: int) -> tuple[list[Answer], int]:
    """Answers of one caller, and how often it was refused."""
    answers: list[Answer] = []
    refusals = 0
    while time.monotonic() < until or not (answers or number):  # the first has one in any case
        turn = len(answers) + number
        text, seed = TEXTS[turn % len(TEXTS)], 100 * number + len(answers)
        try:
            answers.append(
                heard(lambda t=text, s=seed: client.stream(t, seed=s, max_new_tokens=max_frames))
            )
        except Overloaded as refusal:
            refusals += 1
            time.sleep(refusal.retry_after_s or 1.0)
    return answers, refusals


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
    figure = Figure(figsize=(13, 3.6), layout="constrained")
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
