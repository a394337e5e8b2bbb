"""The command line: files, one JSON object, exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile

from support.command_line import run
from support.fake_server import FakeServer, Refusal, chunk, whole
from voicereel import VoiceFeatures


def test_say(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda _: iter([whole(np.zeros(22_050))])
    code, out, _ = run("say", "Hi", "-o", tmp_path / "a.wav", "--url", fake.url, "--seed", 3)
    assert code == 0
    assert out.startswith(f"{tmp_path / 'a.wav'}: 0.50 s of audio in ")
    assert soundfile.info(tmp_path / "a.wav").frames == 22_050


def test_say_streamed_as_json(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda _: iter([chunk(1, samples=7, is_last=True), chunk(0)])
    path = tmp_path / "a.flac"
    code, out, _ = run("say", "Hi", "-o", path, "--url", fake.url, "--stream", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["file"] == str(path)
    assert said["audio_s"] == pytest.approx(57 / 44_100)
    assert said["rtf"] == pytest.approx(said["wall_s"] / said["audio_s"])
    assert 0 < said["ttfa_s"] <= said["wall_s"]
    assert soundfile.info(path).frames == 57


def test_a_stream_that_breaks_off_says_what_the_file_holds(
    fake: FakeServer, tmp_path: Path
) -> None:
    fake.answer = lambda _: iter([chunk(0)])
    path = tmp_path / "a.wav"
    code, out, err = run("say", "Hi", "-o", path, "--url", fake.url, "--stream", "--json")
    assert (code, out) == (1, "")
    assert "the audio is incomplete" in err
    assert f"{path} holds the first 0.00 s only" in err


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        ("INVALID_ARGUMENT", "fish_prompt: [bold]text[/bold] is empty", 2),
        ("UNAVAILABLE", "no available versions", 3),
        ("UNAVAILABLE", "fish_llama: overloaded: full", 4),
        ("DEADLINE_EXCEEDED", "late", 4),
        ("INTERNAL", "boom", 1),
    ],
)
def test_exit_codes(
    fake: FakeServer, tmp_path: Path, status: str, message: str, expected: int
) -> None:
    def refuse(_: dict) -> Iterator[dict]:
        raise Refusal(grpc.StatusCode[status], message)
        yield

    fake.answer = refuse
    code, out, err = run("say", "Hi", "-o", tmp_path / "a.wav", "--url", fake.url, "--json")
    assert (code, out) == (expected, "")
    assert message in err


def test_usage_errors_come_before_the_network(tmp_path: Path) -> None:
    assert run("say", "Hi")[0] == 2
    assert run("say", "Hi", "-o", "a.wav", "--tempo", "3")[0] == 2
    for arguments in (["-o", "a.xyz"], ["-o", "a.wav", "--voice", tmp_path / "missing.wav"]):
        code, _, err = run("say", "Hi", *arguments, "--url", "127.0.0.1:1")
        assert code == 2
        assert "InvalidRequest" in err


def test_voice_encode(fake: FakeServer, tmp_path: Path) -> None:
    codes = np.arange(10 * 32).reshape(1, 10, 32)
    fake.answer = lambda _: iter(
        [
            {
                "codes": codes,
                "reference_frames": np.array([[22]], np.int32),
                "checkpoint_id": np.array([[b"abc"]], np.object_),
            }
        ]
    )
    soundfile.write(tmp_path / "a.wav", np.zeros(44_100), 44_100)
    arguments = [tmp_path / "a.wav", "--text", "hello", "-o", tmp_path / "a.npz"]
    code, out, _ = run("voice", "encode", *arguments, "--url", fake.url, "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 22
    voice = VoiceFeatures.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(voice.codes, codes[0, :, :22])
    assert (voice.texts, voice.checkpoint_id) == (("hello",), "abc")


def test_ready(fake: FakeServer) -> None:
    code, out, _ = run("ready", "--url", fake.url, "--json")
    assert code == 0
    assert set(json.loads(out).values()) == {True}
    fake.not_ready = {"fish_clone"}
    code, out, _ = run("ready", "--url", fake.url)
    assert code == 3
    assert "fish_clone: not ready" in out
    assert run("ready", "--url", "127.0.0.1:1")[0] == 3


LONG = "Did the captain find the guitar last night?"


def test_say_warns_of_speech_that_cannot_be_right(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda _: iter([whole(np.zeros(22_050))])
    arguments = ["say", LONG, "-o", tmp_path / "a.wav", "--url", fake.url]
    code, out, err = run(*arguments, "--json")
    warning = (
        "'Did the captain find the guitar last ...' is too short: words are missing "
        "(70 letters a second, expected 3 to 30)"
    )
    assert (code, json.loads(out)["warnings"]) == (0, [warning])
    assert f"warning: {warning}" in " ".join(err.split())
    assert len(fake.requests) == 1


def test_say_tries_again(fake: FakeServer, tmp_path: Path) -> None:
    lengths = iter([22_050, 3 * 44_100])
    fake.answer = lambda _: iter([whole(np.zeros(next(lengths)))])
    arguments = ["say", LONG, "-o", tmp_path / "a.wav", "--url", fake.url, "--json"]
    code, out, err = run(*arguments, "--retries", "1")
    assert (code, json.loads(out)["audio_s"], json.loads(out)["warnings"]) == (0, 3.0, [])
    assert "warning" not in err
    code, _, err = run(*arguments, "--retries", "1", "--stream")
    assert code == 2
    assert "what was streamed cannot be taken back" in " ".join(err.split())


@pytest.mark.parametrize("text", ["...", "\u200b", "\U0001f600", " "])
def test_nothing_to_say_needs_no_server(tmp_path: Path, text: str) -> None:
    recording = tmp_path / "a.wav"
    soundfile.write(recording, np.zeros(44_100), 44_100)
    for arguments in (
        ["say", text, "-o", tmp_path / "b.wav"],
        ["say", "Hi", "-o", tmp_path / "b.wav", "--voice", recording, "--voice-text", text],
        ["voice", "add", "Alice", recording, "--text", text],
        ["voice", "encode", recording, "--text", text, "-o", tmp_path / "b.npz"],
    ):
        code, _, err = run(*arguments, "--url", "127.0.0.1:1")
        assert code == 2
        assert "words to say" in " ".join(err.split())
    assert list(tmp_path.iterdir()) == [recording]
