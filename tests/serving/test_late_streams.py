"""A stream that could not be played in time is refused, where that is set. Without a server."""

import time
from pathlib import Path

import pytest

from ensemble.serving import cancel
from families.fish_s1.prompt import PromptBuilder
from support.pb_utils_stand_in import Request, load

pytestmark = pytest.mark.torch
MODEL = Path(__file__).resolve().parents[2] / "model_repository" / "fish_llama" / "1" / "model.py"


def test_a_stream_that_would_be_late(repository, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cancel, "_FOLDER", tmp_path)
    monkeypatch.setenv("VOICEREEL_REAL_TIME", "refuse")
    model, folder = load(MODEL).TritonPythonModel(), str(repository / "fish_llama")
    model.initialize(
        {"model_instance_kind": "CPU", "model_repository": folder, "model_version": "1"}
    )
    monkeypatch.setattr(model.scheduler.real_time, "streams", lambda _: 1)
    prompt = PromptBuilder(repository / "fish_prompt" / "1").build("Hello there.", [])[0]
    chunks = {"max_new_tokens": [400], "first_chunk_frames": [1], "max_chunk_frames": [1]}
    first, late, after = (Request(prompt=prompt, **chunks) for _ in range(3))
    model.execute([first])
    while not first.sender.sent:
        time.sleep(0.01)
    model.execute([late])
    assert late.sender.finals == [True]
    said = (
        "fish_llama: overloaded: with 1 in work no further stream can be played in time. Try again"
    )
    assert late.sender.error.startswith(said)
    first.sender.wait()
    model.execute([after])  # the place is free
    after.sender.wait()
    assert first.sender.error == after.sender.error == ""
    model.finalize()
