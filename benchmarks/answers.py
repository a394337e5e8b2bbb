"""What a listener notices of an answer: when its audio arrives, and where a player runs dry."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from voicereel import AudioChunk

START_BUFFER_S = 0.1  # audio that the simulated player holds before it starts


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


def underruns(answer: Answer, start_buffer_s: float = START_BUFFER_S) -> tuple[int, float]:
    """Play an answer as it arrives.

    The player starts when it holds `start_buffer_s` of audio (or all there is). When it runs dry it
    goes on as soon as the next chunk has come.

    Returns:
        How often it ran dry, and for how many seconds in all.
    """
    held = np.cumsum(answer.durations_s)
    start = min(int(np.searchsorted(held, start_buffer_s)), len(held) - 1)
    count, silent_s, runs_dry_s = 0, 0.0, answer.arrivals_s[start] + float(held[start])
    chunks = zip(answer.arrivals_s[start + 1 :], answer.durations_s[start + 1 :], strict=True)
    for arrival_s, duration_s in chunks:
        missing_s = arrival_s - runs_dry_s
        if missing_s > 0:
            count, silent_s, runs_dry_s = count + 1, silent_s + missing_s, arrival_s
        runs_dry_s += duration_s
    return count, silent_s


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """The figures of a load, from all its answers; times in seconds, as the names say."""
    sent = [a.sent_s for a in answers]
    wall_s = max(a.sent_s + a.latency_s for a in answers) - min(sent)
    audio_s = sum(a.audio_s for a in answers)
    dry = [underruns(a) for a in answers]
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
        "interrupted": sum(count > 0 for count, _ in dry),
        "underruns": sum(count for count, _ in dry),
        "silent_s": sum(silent_s for _, silent_s in dry),
    }


def _percentiles(name: str, values: Sequence[float], wanted: Sequence[int]) -> dict[str, float]:
    return {
        f"{name}_p{percent}".replace("_p100", "_max"): float(np.percentile(values, percent))
        for percent in wanted
    }
