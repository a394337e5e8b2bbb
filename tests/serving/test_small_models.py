"""The small models: fish_prompt folds texts, fish_checkpoint tells, fish_reference warns."""

from pathlib import Path

import numpy as np
import pytest

from support.facts import FACTS
from support.pb_utils_stand_in import Request, load

MODELS = Path(__file__).resolve().parents[2] / "model_repository"


class Builder:
    """Keeps what it is asked to build."""

    facts = FACTS

    def build_parts(self, text, references):
        self.built = text, [reference.text for reference in references]
        return [[1]], 0, [1]


@pytest.mark.parametrize(
    ("setting", "expected"), [(None, "Good morning"), ("false", "Ｇood  morning\u200b")]
)
def test_folding_can_be_switched_off(monkeypatch, setting, expected) -> None:
    module, builder = load(MODELS / "fish_prompt" / "1" / "model.py"), Builder()
    monkeypatch.setattr(module, "prompt_builder", lambda folder: builder)
    monkeypatch.delenv("VOICEREEL_FOLD_TEXT", raising=False)
    if setting:
        monkeypatch.setenv("VOICEREEL_FOLD_TEXT", setting)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": ".", "model_version": "1"})
    odd = "Ｇood  morning\u200b".encode()
    codes = {"codes": [1] * 40, "reference_frames": [2, 2], "reference_text": [odd, odd]}
    (answer,) = model.execute([Request(text=[odd], **codes)])
    assert answer.error is None
    assert builder.built == (expected, [expected, expected])
    (answer,) = model.execute([Request(text=["…".encode()])])
    assert "text is '\\u2026', which has no letter or digit" in answer.error.text


def test_an_export_from_before_fish_checkpoint_tells_nothing(tmp_path, capsys) -> None:
    model = load(MODELS / "fish_checkpoint" / "1" / "model.py").TritonPythonModel()
    folder = tmp_path / "repository" / "fish_checkpoint"
    model.initialize({"model_repository": str(folder), "model_version": "1"})
    assert "fish_checkpoint: nothing to tell" in capsys.readouterr().out
    (answer,) = model.execute([Request()])
    assert "checkpoint.json" in answer.error.text


def test_a_recording_without_a_rate_is_noted_once(tmp_path, capsys) -> None:
    folder = tmp_path / "repository" / "fish_reference"  # beside it are its models alone
    version = folder / "1"
    version.mkdir(parents=True)
    FACTS.save(version)
    model = load(MODELS / "fish_reference" / "1" / "model.py").TritonPythonModel()
    model.initialize({"model_repository": str(folder), "model_version": "1"})
    audio = np.random.default_rng(0).normal(0, 0.1, 44_100).astype(np.float32)
    model.execute([Request(reference_audio=audio, reference_sample_rate=[44_100])])
    assert capsys.readouterr().out == ""
    answers = model.execute([Request(reference_audio=audio), Request(reference_audio=audio)])
    assert [answer.tensors["reference_frames"].item() for answer in answers] == [22, 22]
    noted = "came without reference_sample_rate and was taken to be at 44100 Hz"
    assert capsys.readouterr().out.count(noted) == 1
