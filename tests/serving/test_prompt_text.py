"""fish_prompt folds texts, unless its setting says not to; fish_facts tells what it can."""

import json
from pathlib import Path

import pytest

from support.facts import FACTS
from support.pb_utils_stand_in import Request, load

MODELS = Path(__file__).resolve().parents[2] / "model_repository"


class Builder:
    """Keeps what it is asked to build."""

    facts = FACTS

    def build(self, text, references):
        self.built = text, [reference.text for reference in references]
        return [[1]], 0


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


def test_facts_of_an_export_from_before_are_none(tmp_path, capsys) -> None:
    model = load(MODELS / "fish_facts" / "1" / "model.py").TritonPythonModel()
    model.initialize({"model_repository": str(tmp_path), "model_version": "1"})
    assert "fish_facts: nothing to tell" in capsys.readouterr().out
    (answer,) = model.execute([Request(fact=[b""])])
    assert json.loads(answer.tensors["value"][0]) == {}
