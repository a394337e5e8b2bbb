"""The simulation against real servers on this machine: `python -m benchmarks.capacity.validate`.

One server, alone on a core, is kept busy with so many streams at a time, which tells what a step, a
frame in the decoder and a window cost. Then requests arrive at random at one and at two such
servers, through the gateway's own choice of a server, and the simulation gets the same arrivals. It
fails if a percentile differs by more than TOLERANCE. As root it goes before what else the machine
does; `others` is what share of a core that has used all the same.
The last line on stdout is one JSON object; all else goes to stderr.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.capacity import measure, plots
from benchmarks.capacity.measure import Answer, Watch
from benchmarks.capacity.simulation import Scenario, poisson, simulate, with_beside
from benchmarks.capacity.stages import Stages
from benchmarks.prepared import ROOT, endless
from benchmarks.report import console, finish
from launch.server import Server

TOLERANCE = 0.4  # of a percentile; docs/capacity.md has what was reached
NEAR_S = 0.05  # seconds that are no difference: a window waits so long for the batch before it
LEVELS = (1, 2, 4, 8, 16)
LOADS = {1: (0.35, 0.6, 0.8), 2: (0.35, 0.6)}  # shares of a core's time, by the number of servers


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: tiny random weights.")] = None,
    seconds: Annotated[float, typer.Option(help="Of arrivals, for each load.")] = 25,
    picture: Annotated[Path, typer.Option(help="PNG file.")] = ROOT / "out" / "capacity-true.png",
) -> None:
    """Measure, simulate, compare."""
    served, rows = repository or endless(quick=True)[1], list[dict[str, float]]()
    for count, shares in LOADS.items():
        with measure.servers(served, count) as started:
            found = [measure.busy(started, level, seconds / 6) for level in LEVELS]
            stages = stages_of(found, measure.slots(started[0]), with_callers=count > 1)
            console.print(f"servers: {count}; {told(stages)}")
            rows += [compare(started, stages, share, seconds) for share in shares]
    picture.parent.mkdir(parents=True, exist_ok=True)
    plots.validation(rows, TOLERANCE, picture)
    worst = max(difference(row, q) for row in rows for q in (50, 95))
    finish({"rows": rows, "worst_difference": worst, "tolerance": TOLERANCE})
    if worst > TOLERANCE:
        raise typer.Exit(1)


def told(stages: Stages) -> str:
    """Its times, in words."""
    times = {"step of one": stages.step_s(1), "of 16": stages.step_s(16),
             "first window": stages.decode_s(8, 1, 1), "beside": stages.beside_s}  # fmt: skip
    return ", ".join(f"{what} {1000 * seconds:.1f} ms" for what, seconds in times.items())


def stages_of(
    found: Sequence[tuple[list[Answer], Watch]], slots: int, with_callers: bool
) -> Stages:
    """What each stage costs, from CPU seconds: other processes do not change these.

    Args:
        found: At each level, the first of which is one stream.
        slots: Of a server.
        with_callers: Whether the callers' own time is taken from the servers' cores.
    """
    watches = [watch for _, watch in found]
    steps = [watch.sum("fish_llama_steps_total") for watch in watches]
    frames = [watch.sum("fish_llama_frames_total") for watch in watches]
    windows = sum(watch.sum("nv_inference_count", '"fish_decoder"') for watch in watches)
    llama = [watch.sum("cpu fish_llama") for watch in watches]
    counts = np.array([steps, frames]).T
    step, frame = map(float, np.linalg.lstsq(counts, np.array(llama), rcond=None)[0])
    decoder = sum(watch.sum("cpu fish_decoder") for watch in watches)
    rest = sum(w.sum("cpu ") for w in watches) - sum(llama) - decoder
    rest += sum(watch.callers_s for watch in watches) * with_callers

    stages = Stages(
        slots,
        lambda streams: step + frame * streams,
        lambda new, batch, _: decoder / sum(frames) * new + rest / windows * batch,
    )
    return with_beside(stages, statistics.median(answer.first_s for answer in found[0][0]))


def compare(
    started: Sequence[Server], stages: Stages, share: float, seconds: float
) -> dict[str, float]:
    """Real and simulated seconds to the first audio, of the same arrivals."""
    # What a frame of one of four streams costs, with its part of a window of 16 frames.
    frame_s = stages.step_s(4) / 4 + stages.decode_s(16, 1, 4) / 16
    rate = share * len(started) / (frame_s * measure.FRAMES)
    arrivals = poisson(rate, seconds, measure.frames, 5)
    answers, watch = measure.play(started, arrivals)
    real = sorted(answer.first_s for answer in answers)
    outcome = simulate(Scenario(stages, len(started)), arrivals)
    row: dict[str, Any] = {
        "servers": len(started), "share": share, "requests": len(arrivals),
        "requests_per_s": rate, "others": watch.others_s / watch.wall_s,
    }  # fmt: skip
    for q in (50, 95):
        row[f"real_p{q}"] = real[min(len(real) - 1, q * len(real) // 100)]
        row[f"simulated_p{q}"] = outcome.first_audio(q / 100)
    console.print({name: round(value, 3) for name, value in row.items()})
    return row


def difference(row: dict[str, float], q: int) -> float:
    """Of a percentile, as a share of the real one; 0 if it is near."""
    real, simulated = row[f"real_p{q}"], row[f"simulated_p{q}"]
    return 0.0 if abs(simulated - real) <= NEAR_S else abs(simulated / real - 1)


if __name__ == "__main__":
    typer.run(main)
