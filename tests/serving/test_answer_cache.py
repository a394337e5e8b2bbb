"""Kept answers: the same for an equal request, and never another request's."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ensemble.contract.errors import LogLines
from ensemble.contract.tensors import Signature, Tensor
from ensemble.serving.stand_in.answer_cache import AnswerCache, key_of
from ensemble.serving.stand_in.served_model import ServedModel
from support.facts import FACTS
from support.pb_utils_stand_in import Request  # before what imports pb_utils

from ensemble.serving import wire  # isort: skip
from ensemble.serving.stand_in.answers import Answering  # isort: skip

SIGNATURE = Signature(
    (Tensor("waveform", "FP32", (-1, -1)), Tensor("chunk_frames", "INT64", (-1, 1))),
    (Tensor("codes", "INT64", (-1, -1, -1)),),
)


class Encoder:
    """Runs that are counted; codes that tell the samples and the chunk size."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        samples, chunk = arrays["waveform"], arrays["chunk_frames"]
        self.rows.append(len(samples))
        return {"codes": (samples.sum(1) * 1000 + chunk[:, 0]).astype(np.int64)[:, None, None]}


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def ask(encoder, monkeypatch) -> Iterator[Any]:
    monkeypatch.setattr(wire, "_LINES", LogLines())
    parameters = {"ANSWER_CACHE_BYTES": "40"}  # five answers of one number
    model = ServedModel("fish_encoder", Path("x"), SIGNATURE, True, parameters, 0, None)
    answering = Answering(model, encoder, FACTS)

    def request(waveform: Any, chunk: int = 64) -> Any:
        made = Request(request_id="7")
        arrays = {"waveform": np.float32([waveform]), "chunk_frames": np.array([[chunk]])}
        tensors = [
            SimpleNamespace(name=lambda n=name: n, as_numpy=lambda a=array: a)
            for name, array in arrays.items()
        ]
        made.inputs = lambda: tensors
        return made

    yield lambda *asked: answering([request(*each) for each in asked])
    answering.close()


def codes(answer: Any) -> int:
    return int(answer.tensors["codes"].item())


def test_an_equal_recording_is_encoded_once(ask, encoder) -> None:
    first, other = ask(([0.5, 0.25],), ([0.5, 0.125],))
    again, newer, third = ask(([0.5, 0.25],), ([0.5, 0.25], 32), ([0.5, 0.125],))
    assert encoder.rows == [2, 1]
    assert [codes(a) for a in (first, again, other, third)] == [814, 814, 689, 689]
    assert codes(newer) == 782  # another chunk size is another request


def test_what_is_kept_is_bounded_and_the_oldest_goes(ask, encoder) -> None:
    for i in range(6):
        ask(([i / 8],))
    ask(([5 / 8],), ([1 / 8],))
    assert len(encoder.rows) == 6
    ask(([0.0],))
    assert len(encoder.rows) == 7


def test_a_refusal_beside_answers_is_its_own(ask, encoder, capsys) -> None:
    good, bad, empty = ask(([0.5],), ([np.nan],), ([],))
    assert codes(good) == 564 and encoder.rows == [1]
    assert bad.error.text.startswith("fish_encoder: invalid request: waveform holds NaN")
    assert "is 0 frames, expected 1 to 6144" in empty.error.text
    assert {bad.error.code, empty.error.code} == {1}  # INVALID_ARG
    assert "fish_encoder: request '7': invalid request: waveform" in capsys.readouterr().out


def test_requests_of_equal_bytes_have_other_names() -> None:
    """As an attacker would choose them: shape, type, name and order count."""
    x = np.arange(6, dtype=np.float32)
    asked = [
        {"a": x.reshape(1, 6)}, {"a": x.reshape(2, 3)}, {"a": x.reshape(3, 2)}, {"b": x[None]},
        {"a": x.view(np.int32)[None]}, {"a": x[None, :3], "b": x[None, 3:]},
        {"a": x[None, 3:], "b": x[None, :3]}, {"a": x[None, ::-1]},
    ]  # fmt: skip
    assert len({key_of(arrays) for arrays in asked}) == len(asked)
    assert key_of({"a": x[::2]}) == key_of({"a": x[::2].copy()})


def test_what_is_over_the_limit_alone_is_not_kept() -> None:
    cache = AnswerCache(80)
    cache.put(b"large", {"codes": np.zeros(11)})
    cache.put(b"small", {"codes": np.zeros(10)})
    assert cache.get(b"large") is None and cache.get(b"small") is not None
    assert (cache.hits, cache.misses) == (1, 1)
