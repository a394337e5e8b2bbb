"""Requests: the contract's names and types, and what is refused before the network."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tritonclient.utils import np_to_triton_dtype

from ensemble.contract import options as contract
from ensemble.contract.tensors import MODELS
from voicereel import InvalidRequest, VoiceFeatures
from voicereel.client import FRONT_DOORS
from voicereel.transport.request import recording_tensors, speech_request

VOICE = VoiceFeatures(np.ones((10, 5), np.int64), (2, 3), ("one", "two"), "abc")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "voice.wav"
    soundfile.write(path, np.zeros(8000, np.float32), 16_000)
    return path


def test_front_doors_are_models_of_the_contract() -> None:
    assert set(FRONT_DOORS) <= MODELS.keys()


def test_requests_are_those_of_the_contract(recording: Path) -> None:
    options = {option.name: option.low for option in contract.OPTIONS}
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


def test_voice_and_its_words(recording: Path) -> None:
    with pytest.raises(InvalidRequest, match="needs voice_text"):
        speech_request("text", recording, None, {})
    with pytest.raises(InvalidRequest, match="give voice=PATH too"):
        speech_request("text", None, "words", {})
    with pytest.raises(InvalidRequest, match="hold their own words"):
        speech_request("text", VOICE, "words", {})
