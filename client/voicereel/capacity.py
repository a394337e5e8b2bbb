"""How many servers a load needs, from what was measured on machines of their kind."""

import csv
import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from voicereel.errors import InvalidRequest

# Share of a replica's streams to plan with. Requests come at random: beyond it first windows wait
# ever longer before the decoder (simulated and measured: docs/capacity.md).
HEADROOM = 0.35
_GAPLESS = "share_without_gap_over_100_ms"  # a column of the load report
HEARD = 0.95  # share of answers without such a gap, from which streams count as played in time
_AS_LISTED = "random weights of the checkpoint's shape; other lengths, voices and machines"
_AS_REPORTED = "the checkpoint, texts and lengths of that load; others"
SPARE = 1  # replicas beside those that the load needs, for one that restarts


@dataclass(frozen=True)
class Machine:
    """What one replica does with so many streams at once; values between are interpolated.

    Attributes:
        name: Of the entry in capacity.json.
        what: Machine, checkpoint and precision, in words.
        unit: What a replica runs on, such as "GPU".
        slots: Requests decoded together, at most.
        source: Where the figures come from.
        frame_s: Seconds of audio in a frame.
        streams: Numbers of streams that were measured, ascending.
        rtf_of_all: Seconds for a second of audio of all of them together.
        first_p50_s, first_p95_s: Seconds to the first audio.
        without_gap: Shares of answers that were played without a gap over 100 ms; () where that was
            not measured.
        cores, gpus: Of one replica.
        llama_step_s: Seconds of a step of the LLaMA stage alone; none if they were not measured.
    """

    name: str
    what: str
    unit: str
    slots: int
    source: str
    frame_s: float
    streams: tuple[int, ...]
    rtf_of_all: tuple[float, ...]
    first_p50_s: tuple[float, ...]
    first_p95_s: tuple[float, ...]
    without_gap: tuple[float, ...] = ()
    cores: int = 0
    gpus: int = 0
    llama_step_s: tuple[float, ...] = ()

    def step_s(self, streams: float) -> float:
        """Seconds in which each of so many streams gets one frame."""
        steps = [
            n * rtf * self.frame_s for n, rtf in zip(self.streams, self.rtf_of_all, strict=True)
        ]
        return between(streams, self.streams, steps)

    def first_s(self, streams: float, *, p95: bool) -> float:
        """Seconds to the first audio, of a request that finds a slot."""
        return between(streams, self.streams, self.first_p95_s if p95 else self.first_p50_s)

    def real_time_streams(self, target_p95_s: float = math.inf) -> int:
        """The most streams that are played without a pause and begin in time; 0: not even one."""
        fits = (
            n for n in range(self.slots, 0, -1)
            if self.step_s(n) <= self.frame_s and self.first_s(n, p95=True) <= target_p95_s
            and (not self.without_gap or between(n, self.streams, self.without_gap) >= HEARD)
        )  # fmt: skip
        return next(fits, 0)


@dataclass(frozen=True)
class Plan:
    """Attributes:
    machine: Name of the machine.
    streams: That are heard at once, on average.
    streams_per_replica: The most that are played without a pause and begin in time.
    replicas: That the load needs, with headroom and spare.
    first_p95_s: Seconds to the first audio that are to be expected.
    assumptions: What this rests on, in words.
    """

    machine: str
    streams: float
    streams_per_replica: int
    replicas: int
    first_p95_s: float
    assumptions: tuple[str, ...]


def between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Linear interpolation; outside, the nearest value."""
    right = bisect_left(xs, x)
    if right == 0 or right == len(xs):
        return ys[0 if right == 0 else -1]
    share = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
    return ys[right - 1] + share * (ys[right] - ys[right - 1])


@cache
def machines() -> dict[str, Machine]:
    """Machines that were measured, by name."""
    told = _told()
    return {name: _machine(name, told["frame_s"], entry) for name, entry in
            told["machines"].items()}  # fmt: skip


def _told() -> dict[str, Any]:
    return json.loads((files("voicereel") / "capacity.json").read_text("utf-8"))


def reported_machine(path: Path) -> Machine:
    """A machine as `make load` has measured it.

    Args:
        path: `report/load.csv` of a load report; load.json beside it says on what.

    Raises:
        InvalidRequest: If it is no such file, or has no closed loops of streams.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["model"] == "fish_tts_stream"
                    and row["closed"] == "True" and not row["error"]]  # fmt: skip
        facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
        rows.sort(key=lambda row: float(row["level"]))
        streams = tuple(int(row["level"]) for row in rows)
        rtf, p50, p95 = (tuple(float(row[name]) for row in rows)
                         for name in ("rtf", "ttfa_s_p50", "ttfa_s_p95"))  # fmt: skip
        gapless = tuple(float(row[_GAPLESS]) for row in rows if row.get(_GAPLESS))
        what, source = facts["machine"], f"{facts['command']}, commit {facts['commit']}"
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InvalidRequest(
            f"{path} is no load report ({type(problem).__name__}: {problem}), expected "
            "report/load.csv with load.json beside it: make load REPOSITORY=DIR writes them"
        ) from None
    if not streams:
        raise InvalidRequest(f"{path} has no closed loop of fish_tts_stream: measure one")
    gapless = gapless if len(gapless) == len(streams) else ()  # an earlier version has none
    frame_s = _told()["frame_s"]
    return Machine(
        str(path), what, "replica", streams[-1], source, frame_s, streams, rtf, p50, p95, gapless
    )


def _machine(name: str, frame_s: float, entry: dict[str, Any]) -> Machine:
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return Machine(name=name, frame_s=frame_s, **given)


def plan(
    machine: str | Machine,
    *,
    streams: float | None = None,
    requests_per_s: float | None = None,
    audio_s: float = 5.0,
    target_p95_s: float = 2.0,
    headroom: float = HEADROOM,
    spare: int = SPARE,
) -> Plan:
    """Replicas for a load.

    Args:
        machine: A measured machine, or its name.
        streams: Heard at once, on average; or give requests_per_s.
        requests_per_s: Requests that arrive each second.
        audio_s: Seconds of audio of a request.
        target_p95_s: Seconds to the first audio that 95 of 100 requests may take.
        headroom: Share of a replica's streams to plan with.
        spare: Further replicas.

    Raises:
        InvalidRequest: If the machine is unknown, cannot meet the target, or the load is unclear.
    """
    known = machines()
    if isinstance(machine, str) and machine not in known:
        raise InvalidRequest(f"machine is {machine!r}, expected one of: {', '.join(known)}")
    if (streams is None) == (requests_per_s is None):
        raise InvalidRequest("give the load as either streams or requests a second, not both")
    _check(streams=streams, requests_per_s=requests_per_s, audio_s=audio_s, headroom=headroom,
           target_p95_s=target_p95_s)  # fmt: skip
    served = known[machine] if isinstance(machine, str) else machine
    each = served.real_time_streams(target_p95_s)
    if not each:
        _refuse_slow(served, target_p95_s)
        raise InvalidRequest(
            f"target_p95_s is {target_p95_s:g} s, but on {served.what} the first audio takes "
            f"{served.first_s(1, p95=True):.2f} s even alone: allow more, or take another machine"
        )
    used = each * min(headroom, 1.0)
    at_once = streams if streams is not None else (requests_per_s or 0.0) * audio_s
    replicas = max(1, math.ceil(at_once / used)) + spare
    return Plan(
        served.name, at_once, each, replicas, served.first_s(used, p95=True),
        (
            f"one replica on {served.what}: {served.source}",
            f"a replica has {each} streams in real time with first audio within "
            f"{target_p95_s:g} s; {headroom:.0%} of them are used, so that bursts find a slot",
            *([] if streams is not None else [
                f"a request of {audio_s:g} s of audio is heard as long, however soon it is made"]),
            f"{spare} spare, so that one may restart; the router sends each request to the replica "
            "with the fewest streams, and repeats what had no audio yet",
            "first audio as measured with requests that came at once; requests that come at random "
            "wait longer (docs/capacity.md)",
            f"{_AS_LISTED if isinstance(machine, str) else _AS_REPORTED} differ",
        ),
    )  # fmt: skip


def _refuse_slow(served: Machine, target_p95_s: float) -> None:
    """Refuse a machine on which even one stream has pauses, whatever the target."""
    if served.first_s(1, p95=True) <= target_p95_s:
        raise InvalidRequest(
            f"{served.what} does not play even one stream without a pause: a step takes "
            f"{1000 * served.step_s(1):.0f} ms, and a frame plays {1000 * served.frame_s:.0f} ms. "
            "Take a faster machine, or serve whole answers"
        )


def _check(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InvalidRequest(f"{name} is {value:g}, expected a positive number")
    if (values["headroom"] or 0) > 1:
        raise InvalidRequest(f"headroom is {values['headroom']:g}, expected at most 1")
