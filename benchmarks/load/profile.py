"""perf_analyzer's profile export -> what a listener notices.

The export has the time stamp of every response and, with each, all outputs; so the audio that
counts (`num_samples`) is known exactly, chunk by chunk, and nothing is guessed from a schedule.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

START_BUFFER_S = 0.1  # audio that the simulated player wants before it starts
_NS = 1e9


@dataclass(frozen=True)
class Answer:
    """One request, as its caller saw it. Seconds; times count from the request.

    Attributes:
        sent_s: When it was sent, on the clock of the export.
        arrivals_s: When each chunk could be heard: it and all before it had come.
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
        """Until the last chunk."""
        return self.arrivals_s[-1]

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Between one chunk and the next."""
        return tuple(b - a for a, b in zip(self.arrivals_s, self.arrivals_s[1:], strict=False))


def read_answers(path: Path) -> list[Answer]:
    """Read an export.

    Raises:
        ValueError: If an answer has no end, or lacks a chunk.
    """
    (experiment,) = json.loads(path.read_text(encoding="utf-8"))["experiments"]
    return [_answer(request, path) for request in experiment["requests"]]


def _answer(request: dict, path: Path) -> Answer:
    sent = request["timestamp"]
    # The last response of a stream may be an empty one that only says it is the end.
    pairs = zip(request["response_timestamps"], request["response_outputs"], strict=True)
    chunks = [(stamp, outputs) for stamp, outputs in pairs if "audio" in outputs]
    chunks.sort(key=lambda chunk: chunk[1].get("chunk_index", 0))
    if [o.get("chunk_index", 0) for _, o in chunks] != list(range(len(chunks))) or not chunks:
        raise ValueError(f"{path}: an answer lacks chunks of its audio")
    last = chunks[-1][1]
    if not last["finish_reason"]:
        raise ValueError(f"{path}: an answer has no end")
    stamps = np.maximum.accumulate([stamp - sent for stamp, _ in chunks])
    return Answer(
        sent_s=sent / _NS,
        arrivals_s=tuple(float(stamp / _NS) for stamp in stamps),
        durations_s=tuple(
            o.get("num_samples", np.size(o["audio"])) / o["sample_rate"] for _, o in chunks
        ),
        finish_reason=last["finish_reason"],
    )


def underruns(answer: Answer, start_buffer_s: float = START_BUFFER_S) -> tuple[int, float]:
    """Play an answer as it comes.

    The player starts when it holds `start_buffer_s` of audio (or all there is), and goes on with
    the next chunk as soon as that has come.

    Returns:
        How often it ran dry, and for how many seconds in all.
    """
    held = np.cumsum(answer.durations_s)
    start = min(int(np.searchsorted(held, start_buffer_s)), len(held) - 1)
    count, silent_s, runs_dry_s = 0, 0.0, answer.arrivals_s[start] + float(held[start])
    chunks = zip(answer.arrivals_s[start + 1 :], answer.durations_s[start + 1 :], strict=True)
    for arrival_s, duration_s in chunks:
        late_s = arrival_s - runs_dry_s
        if late_s > 0:
            count, silent_s, runs_dry_s = count + 1, silent_s + late_s, arrival_s
        runs_dry_s += duration_s
    return count, silent_s


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """What all of a run's answers amount to; times in seconds, see the columns' names."""
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
        **_percentiles("request_rtf", [a.latency_s / a.audio_s for a in answers], (50, 95)),
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
