"""What callers may ask of a synthesis: defaults, ranges, and the tensors they come in."""

import dataclasses

import pytest

from ensemble.contract.options import OPTIONS, Option, Sampling, options_of, sampling_from
from ensemble.contract.tensors import MODELS
from support.facts import FACTS


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


S2 = dataclasses.replace(
    FACTS,
    family="fish_s2",
    option_defaults={"repetition_penalty": 1.0, "top_k": 30, "ras_window": 10},
    fixed_options=("repetition_penalty",),
)


def test_a_checkpoint_has_defaults_of_its_own() -> None:
    sampling = sampling_from({"top_p": 0.5}, S2)
    assert (sampling.top_k, sampling.ras_window, sampling.repetition_penalty) == (30, 10, 1.0)
    assert (sampling.temperature, sampling.top_p) == (0.8, 0.5)
    assert sampling_from({}, FACTS).top_k == sampling_from({}).ras_window == 0
    assert {o.name: o.default for o in options_of(S2)}["top_k"] == 30
    assert options_of(FACTS) == OPTIONS


def test_an_option_that_a_checkpoint_does_not_take_is_refused_by_name() -> None:
    assert sampling_from({"repetition_penalty": 1.0}, S2).repetition_penalty == 1.0
    with pytest.raises(ValueError, match=r"^repetition_penalty is 1.1, but .* family fish_s2 .*"):
        sampling_from({"repetition_penalty": 1.1}, S2)
    with pytest.raises(ValueError, match="top_k is 5000, expected 0 to 4096"):
        sampling_from({"top_k": 5000}, S2)


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
