"""Outputs are checked before the first request, and what is finished is never thrown away."""

import json
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.command_line import run
from support.fake_server import FakeServer, whole
from support.script_server import speech, text_of
from voicereel import Audio, InvalidRequest, VoiceFeatures
from voicereel.places import check_place

SAY = ["say", "Hi", "-o"]
SCRIPT = ["script", "play.json", "--voice", "A=v.npz", "-o"]
ENCODE = ["voice", "encode", "a.wav", "--text", "hello", "-o"]


@pytest.fixture
def fake(fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server that speaks and encodes; the working folder has a script, a voice, a recording."""

    def answer(inputs):
        if "text" in inputs:
            yield whole(speech("2" + text_of(inputs)))
        else:
            yield {
                "codes": np.arange(10 * 32).reshape(1, 10, 32),
                "reference_frames": np.array([[22]], np.int32),
                "checkpoint_id": np.array([[b"abc"]], np.object_),
            }

    fake.answer = answer
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOICEREEL_VOICES", str(tmp_path / "voices"))
    from voicereel.settings import settings

    settings.cache_clear()
    Path("play.json").write_text(json.dumps([{"speaker_id": "A", "text": "Hello."}]))
    VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id").save("v.npz")
    soundfile.write("a.wav", np.zeros(44_100), 44_100)
    Path("folder.wav").mkdir()
    Path("folder.npz").mkdir()
    Path("old.wav").write_bytes(b"precious")
    Path("play.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nA: Hi.\n")
    yield fake
    settings.cache_clear()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *(
            ([*kind, path.format(end)], message)
            for kind, end in ((SAY, "wav"), ([*SAY[:2], "--stream", "-o"], "flac"),
                              (SCRIPT, "mp3"), (ENCODE, "npz"))
            for path, message in (
                ("nowhere/x.{}", r"cannot write nowhere/x\.\w+: there is no folder .*nowhere"),
                ("play.json/x.{}", r"cannot write play\.json/x\.\w+: there is no folder"),
                ("x.xyz", "cannot write x.xyz: expected a name in "),
                ("x" * 300 + ".{}", "File name too long"),
            )
        ),
        ([*SAY, "folder.wav"], "folder.wav: it is a folder, expected a file name"),
        ([*ENCODE, "folder.npz"], "folder.npz: it is a folder"),
        ([*ENCODE, "-"], "cannot write -: expected a name in .npz"),
        ([*SCRIPT, "x.wav", "--captions", "nowhere/x.srt"], "nowhere/x.srt: there is no folder"),
        ([*SCRIPT, "x.wav", "--captions", "x.txt"], "expected a name in .srt"),
        ([*SCRIPT, "x.wav", "--captions", "play.json"], "play.json: the same file is read too"),
        ([*SCRIPT, "x.wav", "--captions", "link.vtt"], "link.vtt: the same file is written twice"),
        (["script", "play.srt", *SCRIPT[2:], "x.wav", "--captions", "./play.srt"], "is read too"),
        ([*SAY, "a.wav", "--voice", "a.wav", "--voice-text", "x"], "a.wav: the same file is read"),
        (["voice", "encode", "v.npz", "--text", "x", "-o", "v.npz"], "the same file is read"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_first(fake: FakeServer, command, message) -> None:
    os.symlink("x.wav", "link.vtt")
    before = sorted(Path().rglob("*"))
    code, _, err = run(*command, "--url", fake.url)
    assert (code, fake.requests) == (2, []), err
    assert re.search(message, err), err
    assert sorted(Path().rglob("*")) == before
    assert Path("old.wav").read_bytes() == b"precious"


@pytest.mark.parametrize("folder", ["play.json", "play.json/voices", "v.npz/a/b"])
def test_a_voice_that_cannot_be_kept_is_refused_first(fake, folder: str, monkeypatch) -> None:
    from voicereel.settings import settings

    monkeypatch.setenv("VOICEREEL_VOICES", folder)
    settings.cache_clear()
    code, _, err = run("voice", "add", "Ann", "a.wav", "--text", "hello", "--url", fake.url)
    assert (code, fake.requests) == (2, [])
    assert "cannot write" in err and "there is no folder" in err


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("command", [[*SAY[:1], "word " * 400, "-o", "x.wav"], [*SCRIPT, "x.wav"]])
def test_a_full_disk_is_seen_before_the_work(fake: FakeServer, command, monkeypatch) -> None:
    Path("play.json").write_text(json.dumps([{"speaker_id": "A", "text": "word " * 400}]))
    usage = Usage(10**9, 10**9, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    code, _, err = run(*command, "--url", fake.url)
    assert (code, fake.requests) == (2, [])
    assert "x.wav: it needs about 7.1 MB, and 1.0 MB are free there. Make room" in err
    usage = Usage(0, 0, 0)  # a file system that does not know
    assert run(*command, "--url", fake.url)[0] == 0


def test_a_check_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old.wav").write_bytes(b"precious")
    os.symlink("target.wav", tmp_path / "dangling.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("old.wav", "new.wav", "dangling.wav", "pipe.wav"):
        check_place(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"old.wav", "dangling.wav", "pipe.wav"}
    assert (tmp_path / "old.wav").read_bytes() == b"precious"
    with pytest.raises(InvalidRequest, match=r"cannot write a\x00b\.wav: .*null"):
        check_place("a\0b.wav")


def test_permission_is_checked(tmp_path: Path) -> None:
    """As a user who is not root, since root may write everywhere."""
    (tmp_path / "locked").mkdir(mode=0o555)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        with pytest.raises(InvalidRequest, match=r"cannot write .*x\.wav: Permission denied"):
            check_place(tmp_path / "locked" / "x.wav")
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("command", "name"),
    [([*SAY, "out/x.wav"], "x.wav"), ([*SAY, "out/x.mp3"], "x.mp3"),
     ([*SCRIPT, "out/x.flac", "--captions", "out/x.srt"], "x.flac"),
     ([*ENCODE, "out/x.npz"], "x.npz"),
     (["voice", "add", "x", "a.wav", "--text", "hello"], "x.npz")],
)  # fmt: skip
def test_what_is_finished_is_kept(fake: FakeServer, command, name, monkeypatch, tmp_path) -> None:
    """The folder vanishes while the server works; a file stands in its place."""
    Path("out").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    answer = fake.answer

    def late(inputs):
        shutil.rmtree("out", ignore_errors=True)
        Path("out").write_text("in the way")
        Path("voices").write_text("in the way")
        yield from answer(inputs)

    fake.answer = late
    code, out, err = run(*command, "--url", fake.url)
    assert (code, out) == (2, "")
    assert "cannot write" in err and "What was made is not lost: " in err
    kept = [Path(found) for found in re.findall(r"not lost: (\S+)", err)]
    assert kept[0].name == name and kept[0].parent.parent == tmp_path / "tmp"
    if name == "x.npz":
        assert VoiceFeatures.load(kept[0]).frames == (22,)
    else:
        assert soundfile.info(kept[0]).frames >= 30
    if "--captions" in command:
        assert kept[1].name == "x.srt" and "A: Hello." in kept[1].read_text()


def test_it_is_said_when_no_folder_takes_it(fake: FakeServer, monkeypatch) -> None:
    def full(self: Audio, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Audio, "save", full)
    code, _, err = run(*SAY, "x.wav", "--url", fake.url)
    assert code == 2
    assert "cannot write x.wav: No space left on device" in err
    assert "No other folder took it either" in err
    assert [path for path in Path().iterdir() if path.name.startswith("voicereel-")] == []
