"""`voicereel script`: files, one JSON object, exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.command_line import run
from support.fake_server import RATE_HZ, FakeServer, inputs_of
from support.script_server import LENGTHS, SCRIPT, failing, spoken
from voicereel import VoiceFeatures


@pytest.fixture
def fake(fake: FakeServer) -> FakeServer:
    fake.answer = spoken
    return fake


@pytest.fixture
def play(tmp_path: Path) -> list[object]:
    """Arguments of the command, with files that exist."""
    features = VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id")
    features.save(tmp_path / "v.npz")
    (tmp_path / "play.yaml").write_text(json.dumps(SCRIPT))
    voices = ["--voice", f"A={tmp_path / 'v.npz'}", "--voice", f"B={tmp_path / 'v.npz'}"]
    return ["script", tmp_path / "play.yaml", "-o", tmp_path / "reel.wav", *voices]


def test_command(fake: FakeServer, tmp_path: Path, play: list[object]) -> None:
    captions = tmp_path / "reel.srt"
    told = ["--url", fake.url, "--captions", captions, "--seed", 3, "--silence", 0.5, "--json"]
    code, out, err = run(*play, *told)
    assert code == 0, err
    said = json.loads(out)
    frames = sum(LENGTHS) + 3 * RATE_HZ // 2
    assert said["audio_s"] == frames / RATE_HZ
    assert said["rtf"] == pytest.approx(said["wall_s"] / said["audio_s"])
    expected = {
        "file": str(tmp_path / "reel.wav"),
        "captions": str(captions),
        "segments": 4,
        "speakers": 2,
        "skipped": [],
    }
    assert {name: said[name] for name in expected} == expected
    assert soundfile.info(tmp_path / "reel.wav").frames == frames
    assert captions.read_text().startswith("1\n00:00:00,000 --> 00:00:00,000\nA: 1\n\n2\n")
    assert {inputs_of(request)["seed"].item() for request in fake.requests} == {3}


def test_command_that_skips_says_so(fake: FakeServer, play: list[object]) -> None:
    fake.answer = failing("333")
    assert run(*play, "--url", fake.url)[0] == 1
    code, out, err = run(*play, "--url", fake.url, "--on-error", "skip", "--json")
    assert code == 0
    assert json.loads(out)["skipped"] == ["segment 3 of 4 (A: '333'): fish_llama: boom"]
    assert "skipped segment 3 of 4" in err


def test_command_refuses_before_the_network(tmp_path: Path, play: list[object]) -> None:
    (tmp_path / "play.txt").write_text("A: hello\nwhat?\n")
    for arguments, message in (
        ([*play, "--captions", "reel.txt"], "expected a name in .srt, .vtt, .json"),
        ([*play, "--voice", "B"], "--voice is 'B', expected SPEAKER=VOICE"),
        ([*play, "-o", "reel.xyz"], "expected a name in .wav"),
        ([*play[:4], "--voice", "B=b.npz"], "no voice 'A': it is neither a file nor in"),
        ([play[0], tmp_path / "play.txt", *play[2:]], "play.txt, line 2: got 'what?'"),
    ):
        code, _, err = run(*arguments, "--url", "127.0.0.1:1")
        assert (code, message in err) == (2, True), err
