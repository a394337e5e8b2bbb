"""Standard input and output, files of text, and texts that begin with a dash."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from support.command_line import run
from support.fake_server import FakeServer, chunk, inputs_of, whole
from voicereel import InvalidRequest, VoiceFeatures, load_script
from voicereel.cli import app, stdout


@pytest.fixture
def fake(fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server whose speech is half a second of a constant; the working folder is tmp_path."""
    monkeypatch.chdir(tmp_path)
    fake.answer = lambda _: iter([whole(np.full(22_050, 0.25))])
    return fake


def said(fake: FakeServer) -> str:
    return inputs_of(fake.requests[-1])["text"].item().decode()


def fed(stdin: str | bytes, *arguments: object) -> tuple[int, bytes, str]:
    """Exit code, bytes on stdout, and stderr of a command with that on its standard input."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    return result.exit_code, result.stdout_bytes, result.stderr


def test_text_of_a_file_and_of_standard_input(fake: FakeServer) -> None:
    Path("chapter.txt").write_text("\ufeffOnce upon\r\na time.\r\n", newline="")
    for arguments in (["--text-file", "chapter.txt"], ["--text-file", "-"], ["-"]):
        code, _, err = fed(
            "Once upon\na time.\n", "say", *arguments, "-o", "a.wav", "--url", fake.url
        )
        assert (code, said(fake)) == (0, "Once upon\na time."), err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chapter.txt"], "is a file. To speak what is in it: --text-file chapter.txt. To speak"),
        (["letter"], "'letter' is a file. To speak"),
        (["play.yaml"], "'play.yaml' is a file. .* what is in it: voicereel script play.yaml"),
        (["missing.TXT"], "looks like the name of a file, and there is none here"),
        (["../book.md"], "looks like the name of a file"),
        (["subs.srt"], "voicereel script subs.srt"),
        (["--text-file", "missing.txt"], "cannot read missing.txt: No such file"),
        (["--text-file", "latin.txt"], "latin.txt, line 2: .* expected UTF-8"),
        (["--text-file", "play.yaml"], "is a script, expected a text. Speak it: voicereel script"),
        (["--text-file", "."], "cannot read .: Is a directory"),
        (["--text-file", "empty.txt"], "empty.txt has no words to say"),
        (["--text-file", "zeros.txt"], "zeros.txt, line 1: it is no text: it holds NUL bytes"),
        (["Hi", "--text-file", "chapter.txt"], "there are two texts"),
        ([" \n"], "the text has no words to say"),
        ([], "there is no text. Give one, or --text-file FILE; a single dash reads"),
        (["-only"], "begins with a dash goes last, after two dashes"),
        (["Hi", "--voice", "a.wav", "--voice-text", "letter"], r'--voice-text "\$\(cat letter'),
    ],
)  # fmt: skip
def test_texts_that_are_none_are_refused(fake: FakeServer, arguments, message) -> None:
    for name, content in (
        ("chapter.txt", b"Hi."), ("letter", b"Hi."), ("play.yaml", b""), ("empty.txt", b" \n"),
        ("latin.txt", b"Gut.\nGr\xfc\xdfe"), ("zeros.txt", b"a\0b"), ("a.wav", b"")
    ):  # fmt: skip
        Path(name).write_bytes(content)
    code, _, err = run("say", *arguments, "-o", "out.wav", "--url", fake.url)
    plain = " ".join(err.replace("\u2502", " ").split())
    assert code == 2 and fake.requests == []
    assert re.search(message, plain), plain


def test_words_of_a_recording_that_name_a_file_are_refused(fake: FakeServer) -> None:
    Path("words.txt").write_text("hello")
    soundfile.write("a.wav", np.zeros(44_100), 44_100)
    code, _, err = run("voice", "add", "Ann", "a.wav", "--text", "words.txt", "--url", fake.url)
    assert (code, fake.requests) == (2, [])
    assert '--text "$(cat words.txt)"' in err


@pytest.mark.parametrize("text", ["See README.md for more.", "Visit example.com", "and/or", "1..."])
def test_texts_that_name_no_file_are_spoken(fake: FakeServer, text: str) -> None:
    assert run("say", text, "-o", "a.wav", "--url", fake.url)[0] == 0
    assert said(fake) == text


def test_empty_standard_input_is_refused(fake: FakeServer) -> None:
    code, _, err = fed("", "say", "-", "-o", "a.wav", "--url", fake.url)
    assert (code, fake.requests) == (2, []) and "standard input has no words to say" in err
    code, _, err = fed(b"Gr\xfc\xdfe", "say", "-", "-o", "a.wav", "--url", fake.url)
    assert code == 2 and "standard input, line 1: invalid start byte, expected UTF-8" in err


@pytest.mark.parametrize(
    "text", ["- Good morning.", "-5 degrees", "-5", "-x marks it", "--- so ---"]
)
def test_a_text_may_begin_with_a_dash(fake: FakeServer, text: str) -> None:
    told = ["-o", "a.wav", "--url", fake.url]
    for arguments in ([text, *told], [*told, text], [*told, "--", text]):
        code, _, err = run("say", *arguments)
        assert (code, said(fake)) == (0, text), err
    assert run("say", "Hi", *told, "--voice-text", text)[0] == 2  # a value stays one
    assert "No such option: --tempo" in run("say", "Hi", *told, "--tempo", "3")[2]


def test_an_unknown_option_says_where_a_text_goes(fake: FakeServer) -> None:
    code, _, err = run("say", "-xyz", "-o", "a.wav", "--url", fake.url)
    plain = " ".join(err.replace("\u2502", " ").split())
    assert code == 2
    assert "No such option: -x. A text that begins with a dash goes last, after two dashes" in plain


def test_a_whole_wav_file_on_standard_output(fake: FakeServer) -> None:
    assert run("say", "Hi", "-o", "a.wav", "--url", fake.url)[0] == 0
    code, out, err = fed("", "say", "Hi", "-o", "-", "--url", fake.url)
    assert (code, out) == (0, Path("a.wav").read_bytes())
    assert err.startswith("-: 0.50 s of audio in ")
    code, out, err = fed("", "say", "Hi", "-o", "-", "--url", fake.url, "--json")
    assert json.loads(err)["audio_s"] == 0.5 and out[:4] == b"RIFF"
    assert not Path("-").exists()


def test_a_stream_on_standard_output(fake: FakeServer) -> None:
    fake.answer = lambda _: iter([chunk(0), chunk(1, samples=7, is_last=True)])
    code, out, _ = fed("", "say", "Hi", "-o", "-", "--stream", "--url", fake.url)
    assert code == 0 and len(out) == 44 + 2 * 57
    assert out[4:8] == out[40:44] == b"\xff" * 4
    back, rate_hz = soundfile.read(io.BytesIO(out), dtype="int16")
    assert rate_hz == 44_100 and back.tolist() == [0] * 50 + [32767] * 7


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_behind_standard_output_loses_nothing(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with open("/dev/full", "w") as full, monkeypatch.context() as patched:
        patched.setattr(stdout, "sys", type("sys", (), {"stdout": full}))
        code, _, err = run("say", "Hi", "-o", "-", "--url", fake.url)
    assert code == 2 and "cannot write to standard output: No space left on device" in err
    kept = re.search(r"not lost: (\S+/speech.wav)", err)
    assert kept and soundfile.info(kept[1]).frames == 22_050


def test_a_script_through_pipes(fake: FakeServer) -> None:
    VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id").save("v.npz")
    told = ["-o", "-", "--voice", "A=v.npz", "--captions", "a.srt", "--url", fake.url]
    for text in (
        "A: Hello.",
        '[{"speaker_id": "A", "text": "Hello."}]',
        "- {speaker_id: A, text: Hi}",
    ):
        code, out, err = fed(text, "script", "-", *told)
        assert code == 0, err
        assert soundfile.info(io.BytesIO(out)).frames == 22_050
    assert load_script("a.srt")[0].speaker_id == "A"
    code, _, err = fed("A: x\nwhat", "script", "-", *told)
    assert code == 2 and "standard input, line 2: got 'what'" in err


def test_a_terminal_is_no_place_for_audio(fake: FakeServer, monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, message in ((Terminal(), "that is a terminal. Send it on"), (None, "closed")):
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(InvalidRequest, match=message):
            stdout.check_stdout()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_a_reader_who_leaves_ends_it_quietly(fake: FakeServer, more: list[str]) -> None:
    def long(inputs):
        if not more:
            yield whole(np.zeros(2_000_000))
        for index in range(10_000):
            yield chunk(index)

    fake.answer = long
    command = [sys.executable, "-m", "voicereel", "say", "Hi", "-o", "-", "--url", fake.url, *more]
    environment = os.environ | {"PYTHONUNBUFFERED": "" if more else "1"}  # writes are short, too
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout and process.stderr
        assert len(process.stdout.read(100)) == 100
        process.stdout.close()
        err = process.stderr.read()
        assert (process.wait(30), err) == (141, b"")


@pytest.mark.slow
def test_a_list_whose_reader_leaves_ends_quietly(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "voicereel", "voice", "list"]
    environment = os.environ | {"VOICEREEL_VOICES": str(tmp_path)}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_a_chapter_is_spoken_in_parts(fake: FakeServer, more: list[str]) -> None:
    def answer(inputs):
        if "text" not in inputs:
            yield {
                "codes": np.arange(10 * 32).reshape(1, 10, 32),
                "reference_frames": np.array([[22]], np.int32),
                "checkpoint_id": np.array([[b"abc"]], np.object_),
            }
        elif more:
            yield chunk(0, is_last=True)
        else:
            yield whole(np.zeros(50))

    fake.answer = answer
    chapter = "Once upon a time there was a dolphin. " * 40
    Path("chapter.txt").write_text(chapter)
    soundfile.write("a.wav", np.zeros(44_100), 44_100)
    told = [
        "say",
        "--text-file",
        "chapter.txt",
        "--seed",
        7,
        "-o",
        "b.wav",
        "--url",
        fake.url,
        *more,
    ]
    assert run(*told, "--voice", "a.wav", "--voice-text", "hello")[0] == 0
    first, *rest = map(inputs_of, fake.requests)
    assert "reference_audio" in first and len(rest) > 1
    assert {inputs["reference_text"].item() for inputs in rest} == {b"hello"}
    assert {inputs["seed"].item() for inputs in rest} == {7}
    texts = sorted(inputs["text"].item().decode() for inputs in rest)
    assert "".join(sorted(" ".join(texts).split())) == "".join(sorted(chapter.split()))
    assert soundfile.info("b.wav").frames == 50 * len(rest)
    for wrong in (["--voice-text", "x"], ["--voice", "a.wav"]):
        assert run(*told, *wrong)[0] == 2
