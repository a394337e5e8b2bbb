"""perf_analyzer's input: more than a hundred texts, spoken by the voices in turns."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voicereel import VoiceFeatures

TEXTS = Path(__file__).with_name("texts.tsv")


def texts() -> list[tuple[str, str]]:
    """(language, text) of each line of texts.tsv, in a fixed order that mixes short and long."""
    lines = TEXTS.read_text(encoding="utf-8").splitlines()
    parts = [line.partition("\t") for line in lines if not line.startswith("#")]
    pairs = [(language, text) for language, _, text in parts]
    stride = 37  # a prime: unless it divides the number of lines, each line is taken once
    if len(pairs) % stride == 0:
        raise ValueError(f"{TEXTS} has {len(pairs)} texts, a multiple of {stride}")
    return [pairs[i * stride % len(pairs)] for i in range(len(pairs))]


def write_rows(path: Path, voices: Mapping[str, VoiceFeatures | None], max_frames: int) -> int:
    """Write the input file: one row for each text.

    Args:
        path: The JSON file.
        voices: Voices in turns; None is the checkpoint's own.
        max_frames: Longest answer, 2048 samples a frame, so that all loads are comparable.

    Returns:
        Number of rows.
    """
    voice_of = list(voices.values())
    rows = [
        _row(text, number, max_frames, voice_of[number % len(voice_of)])
        for number, (_, text) in enumerate(texts())
    ]
    path.write_text(json.dumps({"data": rows}, ensure_ascii=False), encoding="utf-8")
    return len(rows)


def _row(text: str, seed: int, max_frames: int, voice: VoiceFeatures | None) -> dict[str, Any]:
    """Content and shape of each input, without the batch axis."""
    row = {"text": [text], "seed": [seed], "max_new_tokens": [max_frames]}
    shapes: dict[str, list[int]] = {}
    if voice is not None:
        row |= {
            "reference_text": list(voice.texts),
            "reference_codes": voice.codes.ravel().tolist(),
            "reference_frames": list(voice.frames),
            "checkpoint_id": [voice.checkpoint_id],
        }
        shapes["reference_codes"] = list(voice.codes.shape)
    return {
        name: {"content": values, "shape": shapes.get(name, [len(values)])}
        for name, values in row.items()
    }
