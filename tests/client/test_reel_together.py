"""A script as one dialogue: what is sent, what comes back, and what is refused before any work."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.command_line import run
from support.fake_server import FakeServer, inputs_of, whole
from voicereel import Client, InvalidRequest, VoiceFeatures, stream_script, synthesize_script
from voicereel.script.together import TURNS_TOGETHER

RATE = 44_100
SCRIPT = [
    {"speaker_id": "BOB", "text": "Hi"},
    {"speaker_id": "ALICE", "text": "Hello there"},
    {"speaker_id": "BOB", "text": "Bye"},
]


def voice(frames: int, text: str) -> VoiceFeatures:
    return VoiceFeatures(np.full((10, frames), frames, np.int64), (frames,), (text,), "id")


VOICES = {"ALICE": voice(4, "I am Alice."), "BOB": voice(3, "I am Bob.")}


def said(is_dialogue: bool = True) -> dict[str, Any]:
    options = {"top_k": {"default": 30}, "seed": {"default": None}}
    return {"family": "fish_s2" if is_dialogue else "fish_s1", "checkpoint_id": "id",
            "is_dialogue": is_dialogue, "notice": "Built with it", "options": options}  # fmt: skip


@pytest.fixture
def dialogue(fake: FakeServer) -> FakeServer:
    """A server of S2 that speaks 0.1 s for each byte of a text."""

    def answer(inputs: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        return iter([whole(np.zeros(len(inputs["text"].item()) * RATE // 10))])

    fake.answer, fake.facts = answer, said()
    return fake


def test_all_segments_are_one_request_with_marked_recordings(dialogue: FakeServer) -> None:
    heard: list[tuple[int, float]] = []
    with Client(dialogue.url) as client:
        audio, captions = synthesize_script(
            client, SCRIPT, VOICES, together=True, seed=7,
            progress=lambda number, seconds: heard.append((number, seconds)),
        )  # fmt: skip
    (request,) = [r for r in dialogue.requests if r.model_name == "fish_tts"]
    got = inputs_of(request)
    text = "<|speaker:0|>Hi<|speaker:1|>Hello there<|speaker:0|>Bye"
    assert got["text"].item().decode() == text
    words = [words.decode() for words in got["reference_text"][0]]
    assert words == ["<|speaker:0|>I am Bob.", "<|speaker:1|>I am Alice."]
    assert got["reference_frames"].tolist() == [[3, 4]]
    assert got["reference_codes"][0, 0].tolist() == [3, 3, 3, 4, 4, 4, 4]
    assert (got["seed"].item(), got["max_new_tokens"].item()) == (7, 3072)
    # Captions follow each other, in proportion to the texts.
    assert [c["speaker"] for c in captions] == ["BOB", "ALICE", "BOB"]
    assert all(c.get("estimated") for c in captions)
    assert (captions[0]["start"], captions[-1]["end"]) == (0, audio.duration_s)
    lengths = [(c["end"] - c["start"]) / audio.duration_s for c in captions]
    np.testing.assert_allclose(lengths, [2 / 16, 11 / 16, 3 / 16], atol=1e-4)
    assert [number for number, _ in heard] == [0, 1, 2]


def test_what_is_wrong_with_a_dialogue_is_told(dialogue: FakeServer) -> None:
    script = [{"speaker_id": "A", "text": "word"}] * (TURNS_TOGETHER + 1)
    dialogue.facts = said() | {"letters_per_s": [100.0, 200.0]}  # its answers are slower
    with Client(dialogue.url) as client:
        audio, _ = synthesize_script(client, script, {"A": None}, together=True)
    assert [warning.endswith("expected 100 to 200)") for warning in audio.warnings] == [True, True]


def test_a_long_script_is_several_dialogues(dialogue: FakeServer) -> None:
    script = [{"speaker_id": "A", "text": "word"}] * (TURNS_TOGETHER + 1)
    with Client(dialogue.url) as client:
        audio, captions = synthesize_script(client, script, {"A": None}, together=True)
    texts = [inputs_of(r)["text"].item() for r in dialogue.requests if r.inputs]
    assert [text.count(b"<|speaker:0|>") for text in texts] == [TURNS_TOGETHER, 1]
    assert len(captions) == len(script) and captions[-1]["end"] == pytest.approx(audio.duration_s)
    assert not captions[-1]["estimated"]  # a dialogue of one segment begins and ends with it
    assert captions[-1]["start"] == pytest.approx(len(texts[0]) / 10)


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ([{"speaker_id": "BOB", "text": "a", "options": {"seed": 3}}], {}, "has seed of its own"),
    ([{"speaker_id": "BOB", "text": "a", "silence_after_s": 1.0}], {}, "has silence_after_s of"),
    ([{"speaker_id": "BOB", "text": "<|speaker:1|>b"}], {}, r"has <\|speaker:N\|> in its text"),
    (SCRIPT, {"silence_s": 1.0}, "silence_s, retries and on_error are for segments"),
    (SCRIPT, {"retries": 1}, "silence_s, retries and on_error are for segments"),
    (SCRIPT, {"on_error": "skip"}, "silence_s, retries and on_error are for segments"),
    ([{"speaker_id": "EVE", "text": "a"}], {}, "no features of speaker 'EVE'"),
]


@pytest.mark.parametrize(("script", "how", "message"), REFUSED)
def test_what_a_dialogue_cannot_be_is_refused(dialogue, script, how, message) -> None:
    with Client(dialogue.url) as client, pytest.raises(InvalidRequest, match=message):
        synthesize_script(client, script, VOICES, together=True, **how)
    assert not [r for r in dialogue.requests if r.model_name == "fish_tts"]


def test_a_speaker_without_a_voice_among_others_is_refused(dialogue: FakeServer) -> None:
    voices = {**VOICES, "ALICE": None}
    with (
        Client(dialogue.url) as client,
        pytest.raises(InvalidRequest, match="'ALICE' has no voice"),
    ):
        synthesize_script(client, SCRIPT, voices, together=True)


def test_a_server_of_s1_is_refused(fake: FakeServer) -> None:
    fake.facts = said(is_dialogue=False)
    with Client(fake.url) as client:
        with pytest.raises(
            InvalidRequest, match=r"family fish_s1, .* needs a server of Fish Audio"
        ):
            synthesize_script(client, SCRIPT, VOICES, together=True)
        with pytest.raises(InvalidRequest, match="together=True is for synthesize_script"):
            stream_script(client, SCRIPT, VOICES, together=True)


def test_settings_show_the_defaults_of_the_servers_checkpoint(dialogue: FakeServer) -> None:
    code, out, _ = run("settings", "--url", dialogue.url)
    assert code == 0 and "(fish_s2)" in out and "Built with it" in out
    assert "top_k" in out and "30" in out
    found = json.loads(run("settings", "--json", "--url", dialogue.url)[1])
    assert found["server"]["defaults"] == {"top_k": 30}
    code, _, err = run("settings", "--url", "127.0.0.1:1")
    assert code == 0 and "no server answers" in err


def test_the_command_line_speaks_together(dialogue: FakeServer, tmp_path) -> None:
    (tmp_path / "play.json").write_text(json.dumps(SCRIPT))
    for name, features in VOICES.items():
        features.save(tmp_path / f"{name}.npz")
    voices = [f"--voice={name}={tmp_path / f'{name}.npz'}" for name in VOICES]
    code, _, err = run(
        "script", tmp_path / "play.json", *voices, "--together", "-o", tmp_path / "a.wav",
        "--captions", tmp_path / "a.json", "--url", dialogue.url,
    )  # fmt: skip
    assert code == 0, err
    captions = json.loads((tmp_path / "a.json").read_text())
    assert [c["estimated"] for c in captions] == [True] * 3
