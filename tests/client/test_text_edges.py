"""Texts and names as people write them: broken characters, marks, words that are none."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from support.command_line import run
from support.fake_server import FakeServer, whole
from voicereel import (
    Caption,
    Client,
    InvalidRequest,
    VoiceFeatures,
    load_script,
    parse_script,
    save_captions,
    synthesize_script,
)
from voicereel.library import VoiceLibrary

HALF = "Good morning \ud83d"
LATIN = "Gr\udcfc\udcdfe"  # what Python makes of the bytes b"Gr\xfc\xdfe" in an argument
FEATURES = VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id")
COMPOSED, DECOMPOSED = "Jos\u00e9", "Jose\u0301"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HALF, r"text: character 14 is \\ud83d, one half of a character"),
        (LATIN, "text: character 3 is the byte 0xfc, which is not UTF-8"),
        (b"Hello", "text is bytes, expected str"),
        (None, "text is NoneType, expected str"),
    ],
)
def test_a_text_that_cannot_be_sent(fake: FakeServer, client: Client, text, message) -> None:
    for call in (client.synthesize, client.stream):
        with pytest.raises(InvalidRequest, match=message):
            call(text)
    assert fake.requests == []


def test_words_of_a_voice_that_cannot_be_sent(fake: FakeServer, client: Client, tmp_path) -> None:
    with pytest.raises(InvalidRequest, match="voice_text: character 14"):
        client.synthesize("Hi", "a.wav", voice_text=HALF)
    with pytest.raises(InvalidRequest, match=r"the text of a\.wav: character 14"):
        client.encode_voice("a.wav", HALF)
    broken = VoiceFeatures(FEATURES.codes, (3,), (HALF,), "id")
    with pytest.raises(InvalidRequest, match="a text of the voice: character 14"):
        client.synthesize("Hi", broken)
    assert fake.requests == []


@pytest.mark.parametrize("words", ["", " ", "\u200b", "...", "\u2014", "\u2060\u200e", "🙂", "\n"])
def test_words_that_are_none(fake: FakeServer, client: Client, words: str) -> None:
    with pytest.raises(InvalidRequest, match=r"the text of a\.wav is .*words to say"):
        client.encode_voice("a.wav", words)
    with pytest.raises(InvalidRequest, match=r"voice_text is .*words to say"):
        client.synthesize("Hi", "a.wav", voice_text=words)
    for command in (["add", "Ann"], ["encode", "-o", "v.npz"]):
        code, _, err = run("voice", *command, "a.wav", "--text", words, "--url", fake.url)
        assert (code, "words to say" in err) == (2, True), err
    assert fake.requests == []


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ({"text": HALF}, "text is .* character 14 is"),
        ({"text": LATIN}, "text is .* character 3 is the byte 0xfc"),
        ({"speaker_id": "A\ud83d"}, "speaker_id is .* character 2 is"),
        ({"options": {"seed\ud83d": 1}}, "options is .* character 5 is"),
    ],
)
def test_a_segment_that_cannot_be_sent(segment: dict, message: str) -> None:
    good = {"speaker_id": "A", "text": "x"}
    with pytest.raises(InvalidRequest, match=f"^script: segment 2: {message}") as raised:
        parse_script([good, good | segment])
    str(raised.value).encode()


def test_half_characters_in_files(tmp_path: Path) -> None:
    for name, text in (
        ("a.json", '[{"speaker_id": "A", "text": "Good morning \\ud83d"}]'),
        ("a.yaml", '- {speaker_id: A, text: "Good morning \\ud83d"}'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidRequest, match=r"segment 1 \(line 1\): .*character 14"):
            load_script(tmp_path / name)


def test_both_halves_make_one_character(tmp_path: Path) -> None:
    for name in ("a.json", "a.yaml"):
        (tmp_path / name).write_text('[{"speaker_id": "A", "text": "Hi \\ud83d\\ude42"}]')
        assert load_script(tmp_path / name)[0].text == "Hi 🙂"


def test_captions_that_cannot_be_written(tmp_path: Path) -> None:
    captions = [Caption(start=0, end=1, speaker="A", text=text) for text in ("good", HALF)]
    for suffix in (".srt", ".vtt", ".json"):
        with pytest.raises(InvalidRequest, match="caption 2: character 14"):
            save_captions(captions, tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["say", LATIN, "-o", "a.wav"],
        ["say", "Hi", "-o", "a.wav", "--voice", LATIN],
        ["say", "Hi", "-o", LATIN],
        ["say", "Hi", "-o", "a.wav", "--voice", "a.wav", "--voice-text", LATIN],
        ["script", LATIN, "-o", "a.wav"],
        ["voice", "add", LATIN, "a.wav", "--text", "x"],
        ["voice", "add", "Ann", "a.wav", "--text", LATIN],
        ["voice", "show", LATIN],
        ["ready", "--url", LATIN],
    ],
)
def test_arguments_that_are_not_utf_8(tmp_path: Path, arguments, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(b"")
    takes_url = len(arguments) > 3
    code, _, err = run(*arguments, *(["--url", "127.0.0.1:1"] if takes_url else []))
    assert (code, "InvalidRequest" in err) == (2, True), err


@pytest.mark.slow
def test_bytes_that_are_not_utf_8_reach_the_messages(fake: FakeServer, tmp_path: Path) -> None:
    """In a process of its own: there the terminal's encoding has a say."""
    fake.answer = lambda _: iter([whole(np.zeros(10))])
    latin = b"Gr\xfc\xdfe"
    python = [os.fsencode(sys.executable), b"-m", b"voicereel", b"say", b"--url", fake.url.encode()]
    for words, rc, stream, shown in (
        ([latin, b"-o", b"a.wav"], 2, "stderr", b"text: character 3 is the byte 0xfc"),
        ([b"Hi", b"-o", latin + b".wav", b"--json"], 0, "stdout", b"Gr\\udcfc\\udcdfe.wav"),
    ):
        done = subprocess.run([*python, *words], cwd=tmp_path, capture_output=True)
        assert done.returncode == rc, done.stderr
        assert shown in getattr(done, stream) and b"Traceback" not in done.stderr
    assert json.loads(done.stdout)["file"].encode(errors="surrogateescape") == latin + b".wav"


@pytest.mark.parametrize(
    "name",
    ["प्रिया", DECOMPOSED, COMPOSED, "O'Brien", "O\u2019Brien", "علی\u200cرضا", "ก้อง",
     "Dr. Anna-Lena", "李小龙", "Ångström 2", "Jean\u2010Luc", "_draft", "வெற்றி"],
)  # fmt: skip
def test_names_of_people(tmp_path: Path, name: str) -> None:
    kept = VoiceLibrary(tmp_path / "voices")
    path = kept.add(name, FEATURES)
    assert path.parent == tmp_path / "voices"
    assert kept.names() == [unicodedata.normalize("NFC", name)]
    for form in ("NFC", "NFD"):
        written = unicodedata.normalize(form, name)
        assert written in kept
        assert kept.find(written) == path
        with pytest.raises(InvalidRequest, match="exists"):
            kept.add(written, FEATURES)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-o", "a/b", "a\\b", "a:b", "a\0b", "a\nb", "a*b", "con", "NUL.x",
     "COM1", "Ann.npz", "Ann.", "Ann ",
     " Ann", "\u0301a", "a\u202eb", "😀", "x" * 65, "ப்" * 35, "'Ann"],
)  # fmt: skip
def test_names_that_are_no_safe_file_names(tmp_path: Path, name: str) -> None:
    kept = VoiceLibrary(tmp_path)
    with pytest.raises(InvalidRequest, match="expected a name of letters"):
        kept.add(name, FEATURES)
    assert name not in kept
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stored", [DECOMPOSED, "Ann.", "Ann ", "con"])
def test_voices_that_were_stored_under_other_rules_are_found(tmp_path: Path, stored: str) -> None:
    FEATURES.save(tmp_path / f"{stored}.npz")
    kept = VoiceLibrary(tmp_path)
    assert kept.find(unicodedata.normalize("NFC", stored)) == tmp_path / f"{stored}.npz"
    kept.add(stored, FEATURES, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == [f"{stored}.npz"]


def test_a_kept_voice_comes_before_a_file_of_its_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Alice").write_text("a letter to Alice")
    kept = VoiceLibrary(tmp_path / "voices")
    assert kept.find("Alice") == Path("Alice")
    kept.add("Alice", FEATURES)
    assert kept.find("Alice") == tmp_path / "voices" / "Alice.npz"
    assert kept.find("./Alice") == Path("Alice")


def test_a_speaker_is_one_however_the_name_is_written(fake: FakeServer, client: Client) -> None:
    fake.answer = lambda _: iter([whole(np.zeros(10))])
    script = [{"speaker_id": name, "text": "x"} for name in (COMPOSED, DECOMPOSED)]
    for name in (COMPOSED, DECOMPOSED):
        _, captions = synthesize_script(client, script, {name: None})
        assert {caption["speaker"] for caption in captions} == {COMPOSED}


def test_a_script_finds_a_voice_by_another_form_of_its_name(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answer = lambda _: iter([whole(np.zeros(10))])
    (tmp_path / "v").mkdir()
    FEATURES.save(tmp_path / "v" / f"{DECOMPOSED}.npz")
    monkeypatch.setenv("VOICEREEL_VOICES", str(tmp_path / "v"))
    monkeypatch.chdir(tmp_path)
    from voicereel import settings

    settings.settings.cache_clear()
    Path("play.json").write_text(json.dumps([{"speaker_id": COMPOSED, "text": "x"}]))
    told = ["script", "play.json", "-o", "a.wav", "--url", fake.url]
    assert run(*told)[0] == 0
    assert run(*told, "--voice", f"{DECOMPOSED}=v/{DECOMPOSED}.npz")[0] == 0
    settings.settings.cache_clear()
