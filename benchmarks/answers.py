"""What a listener notices of an answer: when its audio arrives, and where it has gaps."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.listener import Listener
from voicereel import AudioChunk

GAPS_MS = (50, 100, 200)  # the share of answers without a longer gap is told for each


@dataclass(frozen=True)
class Answer:
    """One request as its caller saw it; all times in seconds.

    Attributes:
        sent_s: When the request was sent, on the caller's clock.
        arrivals_s: When each chunk could be heard (it and all before it had come), counted from
            the request.
        durations_s: Audio in each chunk, padding cut.
        finish_reason: Of the last chunk.
    """

    sent_s: float
    arrivals_s: tuple[float, ...]
    durations_s: tuple[float, ...]
    finish_reason: str

    @property
    def audio_s(self) -> float:
        return sum(self.durations_s)

    @property
    def ttfa_s(self) -> float:
        """Time to first audio."""
        return self.arrivals_s[0]

    @property
    def latency_s(self) -> float:
        """Time to the last chunk."""
        return self.arrivals_s[-1]

    @property
    def rtf(self) -> float:
        return self.latency_s / self.audio_s

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Times between one chunk and the next."""
        return tuple(b - a for a, b in zip(self.arrivals_s, self.arrivals_s[1:], strict=False))


def heard(stream: Callable[[], Iterable[AudioChunk]]) -> Answer:
    """Ask for a stream, and note when its chunks arrive."""
    begin, arrivals, durations, reason = time.perf_counter(), [], [], ""
    for chunk in stream():
        arrivals.append(time.perf_counter() - begin)
        durations.append(len(chunk.waveform) / chunk.sample_rate_hz)
        reason = chunk.finish_reason
    return Answer(begin, tuple(arrivals), tuple(durations), reason)


def played(answer: Answer) -> Listener:
    """A listener who has played an answer as it arrived."""
    listener = Listener()
    for arrival_s, duration_s in zip(answer.arrivals_s, answer.durations_s, strict=True):
        listener.hears(arrival_s, duration_s)
    return listener


def share_without_gap(listeners: Sequence[Listener], longest_s: float) -> float:
    """Share of listeners, 0 to 1, who heard no gap longer than that."""
    return sum(max(each.gaps_s, default=0.0) <= longest_s for each in listeners) / len(listeners)


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """The figures of a load, from all its answers; times in seconds, as the names say."""
    sent = [a.sent_s for a in answers]
    wall_s = max(a.sent_s + a.latency_s for a in answers) - min(sent)
    audio_s = sum(a.audio_s for a in answers)
    listeners = [played(a) for a in answers]
    gaps = [gap for a in answers for gap in a.gaps_s] or [0.0]
    return {
        "answers": len(answers),
        "audio_s": audio_s,
        "wall_s": wall_s,
        "rtf": wall_s / audio_s,
        "requests_per_s": len(answers) / wall_s,
        "arrivals_per_s": (len(answers) - 1) / (max(sent) - min(sent) or 1.0),
        **_percentiles("request_rtf", [a.rtf for a in answers], (50, 95)),
        "ttfa_s_mean": sum(a.ttfa_s for a in answers) / len(answers),
        **_percentiles("ttfa_s", [a.ttfa_s for a in answers], (50, 95, 99)),
        **_percentiles("latency_s", [a.latency_s for a in answers], (50, 95, 99)),
        **_percentiles("gap_s", gaps, (50, 95, 100)),
        "interrupted": sum(bool(each.gaps_s) for each in listeners),
        "underruns": sum(len(each.gaps_s) for each in listeners),
        "underrun_s": sum(each.underrun_s for each in listeners),
        **{gapless(ms): share_without_gap(listeners, ms / 1000) for ms in GAPS_MS},
    }


def gapless(longest_ms: int) -> str:
    """Name of the share of answers without a longer gap, in a summary."""
    return f"share_without_gap_over_{longest_ms}_ms"


def _percentiles(name: str, values: Sequence[float], wanted: Sequence[int]) -> dict[str, float]:
    return {
        f"{name}_p{percent}".replace("_p100", "_max"): float(np.percentile(values, percent))
        for percent in wanted
    }
