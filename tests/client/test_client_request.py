"""Requests: the contract's names and types, and what is refused before the network."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tritonclient.utils import np_to_triton_dtype

from ensemble.contract.options import OPTIONS
from ensemble.contract.tensors import MODELS
from voicereel import InvalidRequest, VoiceFeatures
from voicereel.client import FRONT_DOORS
from voicereel.request import OPTION_DTYPES, Options, recording_tensors, speech_request

VOICE = VoiceFeatures(np.ones((10, 5), np.int64), (2, 3), ("one", "two"), "abc")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "voice.wav"
    soundfile.write(path, np.zeros(8000, np.float32), 16_000)
    return path


def test_options_are_those_of_the_contract() -> None:
    ours = {name: np_to_triton_dtype(dtype) for name, dtype in OPTION_DTYPES.items()}
    assert ours == {option.name: option.dtype for option in OPTIONS}
    assert list(Options.__annotations__) == list(ours)
    assert set(FRONT_DOORS) <= MODELS.keys()


def test_requests_are_those_of_the_contract(recording: Path) -> None:
    options = {option.name: option.low for option in OPTIONS}
    requests = [
        speech_request("text", None, None, {}),
        speech_request("text", VOICE, None, options),
        speech_request("text", recording, "words", options),
        ("fish_encode", recording_tensors(recording)),
        ("fish_encode", recording_tensors(recording, 2.5)),
    ]
    models = ["fish_tts", "fish_tts", "fish_clone", "fish_encode", "fish_encode"]
    assert [model for model, _ in requests] == models
    for model, tensors in requests:
        expected = {tensor.name: tensor for tensor in MODELS[model].inputs}
        assert tensors.keys() <= expected.keys()
        assert {name for name, t in expected.items() if not t.optional} <= tensors.keys()
        for name, array in tensors.items():
            assert np_to_triton_dtype(array.dtype) == expected[name].dtype, name
            assert array.shape[0] == 1, name
            dims = expected[name].dims
            assert len(array.shape) == 1 + len(dims), name
            assert all(d in (-1, n) for d, n in zip(dims, array.shape[1:], strict=True)), name


def test_features_travel_with_their_references() -> None:
    _, tensors = speech_request("text", VOICE, None, {})
    assert tensors["reference_text"].tolist() == [[b"one", b"two"]]
    assert tensors["reference_frames"].tolist() == [[2, 3]]
    assert tensors["reference_codes"].shape == (1, 10, 5)
    assert tensors["checkpoint_id"].tolist() == [[b"abc"]]


def test_a_voice_file_is_features(tmp_path: Path) -> None:
    VOICE.save(tmp_path / "voice.npz")
    model, tensors = speech_request("text", str(tmp_path / "voice.npz"), None, {})
    assert model == "fish_tts"
    np.testing.assert_array_equal(tensors["reference_codes"][0], VOICE.codes)


def test_none_is_the_servers_default() -> None:
    assert speech_request("text", None, None, {"seed": None, "top_p": None})[1].keys() == {"text"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tempo": 1}, TypeError, "no option tempo; there are seed, temperature"),
        ({"seed": 1.5}, TypeError, "float"),
        ({"seed": -1}, InvalidRequest, "seed is -1, expected 0 to 18446744073709551615"),
        ({"max_new_tokens": 2**31}, InvalidRequest, "max_new_tokens is 2147483648"),
        ({"temperature": "hot"}, ValueError, "hot"),
    ],
)
def test_impossible_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        speech_request("text", None, None, options)


def test_voice_and_its_words(recording: Path) -> None:
    with pytest.raises(InvalidRequest, match="needs voice_text"):
        speech_request("text", recording, None, {})
    with pytest.raises(InvalidRequest, match="give voice=PATH too"):
        speech_request("text", None, "words", {})
    with pytest.raises(InvalidRequest, match="hold their own words"):
        speech_request("text", VOICE, "words", {})
