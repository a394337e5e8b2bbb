"""Voices kept by name: `voicereel voice`, and where other commands find them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.command_line import run
from support.fake_server import FakeServer, inputs_of, whole
from voicereel import InvalidRequest, VoiceFeatures
from voicereel import settings as settings_module
from voicereel.library import VoiceLibrary

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A server that encodes and speaks, a folder for voices, and a recording in tmp_path."""

    def answer(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        if "text" in inputs:
            yield whole(np.zeros(441))
        else:
            yield {
                "codes": np.arange(10 * 32).reshape(1, 10, 32),
                "reference_frames": np.array([[22]], np.int32),
                "checkpoint_id": np.array([[b"abc"]], np.object_),
            }

    soundfile.write(tmp_path / "a.wav", np.zeros(44_100), 44_100)
    with FakeServer() as server:
        server.answer = answer
        monkeypatch.setenv("VOICEREEL_URL", server.url)
        monkeypatch.setenv("VOICEREEL_VOICES", str(tmp_path / "voices"))
        monkeypatch.chdir(tmp_path)
        settings_module.settings.cache_clear()
        yield server
    settings_module.settings.cache_clear()


def test_add_list_show(fake: FakeServer) -> None:
    assert run("voice", "list")[1].startswith("no voices in ")
    code, out, _ = run("voice", "add", "Ann", "a.wav", "a.wav", "--text", "one", "--text", "two")
    assert (code, out.split(": ")[1].strip()) == (0, "10 codebooks x 44 frames")
    code, out, _ = run("voice", "show", "Ann", "--json")
    shown = json.loads(out)
    assert (code, shown["recordings"], shown["texts"]) == (0, 2, ["one", "two"])
    assert shown["seconds"] == pytest.approx(44 * 2048 / 44_100)
    assert shown["checkpoint_id"] == "abc"
    assert run("voice", "show", "Ann")[1].splitlines()[1] == "recordings: 2"
    (Path("voices") / "old.npz").write_text("damaged")
    listed = json.loads(run("voice", "list", "--json")[1])
    assert [Path(voice["file"]).stem for voice in listed] == ["Ann", "old"]
    assert "is not a voice file" in listed[1]["error"]
    assert "damaged" in run("voice", "list")[1]


def test_adding_twice_needs_force(fake: FakeServer) -> None:
    assert run("voice", "add", "Ann", "a.wav", "--text", "one")[0] == 0
    asked = len(fake.requests)
    code, _, err = run("voice", "add", "Ann", "a.wav", "--text", "two")
    assert (code, len(fake.requests)) == (2, asked)
    assert "voice Ann exists" in err
    assert run("voice", "add", "Ann", "a.wav", "--text", "two", "--force")[0] == 0
    assert VoiceFeatures.load("voices/Ann.npz").texts == ("two",)
    assert [path.name for path in Path("voices").iterdir()] == ["Ann.npz"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "x" * 65])
def test_names_are_no_paths(fake: FakeServer, name: str) -> None:
    code, _, err = run("voice", "add", name, "a.wav", "--text", "one")
    assert code == 2
    assert "expected a name of letters" in err
    assert name not in VoiceLibrary(Path("voices"))


def test_texts_must_fit_recordings(fake: FakeServer) -> None:
    code, _, err = run("voice", "add", "Ann", "a.wav", "a.wav", "--text", "one")
    assert (code, fake.requests) == (2, [])
    assert "2 recordings and 1 texts" in err


def test_a_script_finds_its_voices_by_name(fake: FakeServer) -> None:
    run("voice", "add", "ANN", "a.wav", "--text", "one")
    run("voice", "add", "other", "a.wav", "--text", "two")
    Path("play.txt").write_text("ANN: Hello.\nBOB: Hi.\n")
    arguments = ["script", "play.txt", "-o", "reel.mp3", "--captions", "reel.srt"]
    code, _, err = run(*arguments)
    assert code == 2
    assert "no voice 'BOB'" in err and "has ANN, other" in err
    fake.requests.clear()
    code, out, _ = run(*arguments, "--voice", "BOB=other", "--json")
    assert code == 0
    assert json.loads(out)["segments"] == 2
    words = {
        inputs["text"].item().decode(): inputs["reference_text"].item().decode()
        for inputs in map(inputs_of, fake.requests)
    }
    assert words == {"Hello.": "one", "Hi.": "two"}
    assert soundfile.info("reel.mp3").format == "MP3"


def test_say_takes_a_name_a_file_or_a_recording(fake: FakeServer) -> None:
    run("voice", "add", "Ann", "a.wav", "--text", "one")
    for given in (["Ann"], ["voices/Ann.npz"], ["a.wav", "--voice-text", "one"]):
        assert run("say", "Hi", "-o", "hi.ogg", "--voice", *given)[0] == 0
        assert inputs_of(fake.requests[-1])["reference_text"].item() == b"one"
    code, _, err = run("say", "Hi", "-o", "hi.ogg", "--voice", "Nobody")
    assert code == 2
    assert "which has Ann" in err


def test_library_finds_files_and_names(tmp_path: Path) -> None:
    kept = VoiceLibrary(tmp_path / "kept")
    assert kept.names() == []
    with pytest.raises(InvalidRequest, match="which has none"):
        kept.find("Ann")
    assert kept.find("elsewhere.npz") == Path("elsewhere.npz")


@pytest.mark.parametrize(
    ("seconds", "frames", "words", "told"),
    [
        (3.0, 65, "Please bring me seven candles.", []),
        (11.0, 77, "Please bring me seven candles.", ["7.4 s of silence around the voice were"]),
        (1.0, 22, "Please bring me seven candles and some chocolate, as soon as you can.",
         ["a.wav lasts 1.0 s: are these the words spoken in it? 'Please bring me"]),
    ],
)  # fmt: skip
def test_what_was_noticed_of_a_recording(
    fake: FakeServer, tmp_path: Path, seconds: float, frames: int, words: str, told: list[str]
) -> None:
    encoded = {
        "codes": np.zeros((1, 10, 96), np.int64),
        "reference_frames": np.array([[frames]], np.int32),
        "checkpoint_id": np.array([[b"abc"]], np.object_),
    }
    fake.answer = lambda _: iter([encoded])
    soundfile.write(tmp_path / "a.wav", np.zeros(int(seconds * 44_100)), 44_100)
    arguments = [tmp_path / "a.wav", "--text", words, "-o", tmp_path / "a.npz"]
    code, _, err = run("voice", "encode", *arguments, "--url", fake.url)
    assert code == 0
    assert err.count("warning") == len(told)
    assert all(warning in " ".join(err.split()) for warning in told), err
