"""perf_analyzer's profile export, read as answers.

The export has the time stamp of every response and, with each, all outputs; so the audio that
counts (`num_samples`) is known exactly, chunk by chunk, and nothing is estimated from a schedule.
"""

import json
from pathlib import Path

import numpy as np

from benchmarks.answers import Answer

_NS = 1e9


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
