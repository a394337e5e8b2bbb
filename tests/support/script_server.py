"""A script of four segments, and a server that speaks it: ten samples for each character."""

from collections.abc import Callable, Iterator

import grpc
import numpy as np

from support.fake_server import Refusal, chunk, whole
from voicereel import VoiceFeatures

SCRIPT = [
    {"speaker_id": "A", "text": "1"},
    {"speaker_id": "B", "text": "22222"},
    {"speaker_id": "A", "text": "333"},
    {"speaker_id": "B", "text": "4444"},
]
VOICES: dict[str, VoiceFeatures | str | None] = {"A": None, "B": None}
LENGTHS = (10, 50, 30, 40)  # samples of each segment

Tensors = dict[str, np.ndarray]
Answer = Callable[[Tensors], Iterator[Tensors]]


def text_of(inputs: Tensors) -> str:
    return inputs["text"].item().decode()


def speech(text: str) -> np.ndarray:
    """Ten samples for each character, of the value of the first."""
    return np.full(10 * len(text), int(text[0]) / 10, np.float32)


def joined(*parts: int | str) -> np.ndarray:
    """The speech of texts, and so many samples of silence."""
    return np.concatenate(
        [speech(p) if isinstance(p, str) else np.zeros(p, np.float32) for p in parts]
    )


def spoken(inputs: Tensors) -> Iterator[Tensors]:
    """Answer with the speech in one piece."""
    yield whole(speech(text_of(inputs)))


def streamed(inputs: Tensors) -> Iterator[Tensors]:
    """Answer with two chunks, the second one first."""
    text = text_of(inputs)
    for index in (1, 0):
        made = chunk(index, samples=5 * len(text), is_last=index == 1)
        made["audio"][:] = int(text[0]) / 10
        yield made


def failing(text: str, answer: Answer = spoken, message: str = "fish_llama: boom") -> Answer:
    """Refuse one text, and answer the others."""

    def answers(inputs: Tensors) -> Iterator[Tensors]:
        if text_of(inputs) == text:
            raise Refusal(grpc.StatusCode.INTERNAL, message)
        yield from answer(inputs)

    return answers
