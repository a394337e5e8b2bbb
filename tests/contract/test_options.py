"""What callers may ask of a synthesis: defaults, ranges, and the tensors they come in."""

import pytest

from ensemble.contract.options import OPTIONS, Option, Sampling, sampling_from
from ensemble.contract.tensors import MODELS


def test_options_have_defaults_and_ranges() -> None:
    sampling = sampling_from({"seed": 7, "temperature": 0.5})
    assert sampling.seed == 7
    assert sampling.temperature == 0.5
    assert sampling.top_p == 0.8
    assert sampling_from({}).seed != sampling_from({}).seed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", 0),
        ("first_chunk_frames", 0),
        ("max_chunk_frames", 100_000),
    ],
)
def test_options_out_of_range(name, value) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*, expected"):
        sampling_from({name: value})


def test_options_are_the_fields_of_sampling() -> None:
    assert Option("seed", "UINT64", None, 0, 2**64 - 1) in OPTIONS
    assert Option("temperature", "FP32", 0.8, 0.0, 2.0) in OPTIONS
    assert Option("max_chunk_frames", "INT32", 0, 0, 512) in OPTIONS
    named = [option.name for option in OPTIONS]
    assert named == list(Sampling.__dataclass_fields__)
    for model in ("fish_llama", "fish_tts", "fish_clone", "fish_tts_stream", "fish_clone_stream"):
        inputs = [t for t in MODELS[model].inputs if t.name in named]
        assert [(t.name, t.dtype, t.dims) for t in inputs] == [
            (option.name, option.dtype, (1,)) for option in OPTIONS
        ]
        assert all(t.optional for t in inputs)
