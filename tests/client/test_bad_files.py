"""Scripts, paths and names that are made to hurt: refused with the line at fault."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.refused import bounded, refused
from voicereel import InvalidRequest, VoiceFeatures, load_script
from voicereel.audio import read_recording
from voicereel.library import VoiceLibrary
from voicereel.text import MAX_BYTES, read_text

VOICE = VoiceFeatures(np.ones((10, 4), np.int64), (4,), ("words",), "x")
SEGMENT = "- {speaker_id: A, text: Hello.}\n"
YAML = {
    "!!timestamp x": "'x' is no timestamp",
    "!!int _": "'_' is no int",
    "!!bool x": "'x' is no bool",
    "!!float x": "'x' is no float",
    "!!binary '*'": "expected a valid integer",
    "!!set x": "expected a mapping|not enough values",
    "!!omap x": "expected a sequence",
    "!!pairs [1]": "expected a mapping",
    "!!str [1]": "expected a scalar",
    "!!python/object/apply:os.system [id]": "could not determine a constructor",
    "!!python/name:os.system x": "could not determine a constructor",
    "9" * 5000: "has 5000 characters",
    "1" + ":1" * 5000: "has 10001 characters",
    "0x" + "f" * 200: "has 202 characters",
    "2026-99-99": "is no timestamp",
    '"\\ud800"': "expected a valid integer",
    "{? [a] : b}": "unhashable|found",
    "*nobody": "undefined alias",
}


@pytest.mark.parametrize("value", YAML)
def test_yaml_values(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{SEGMENT}- speaker_id: B\n  text: Bye.\n  options: {{seed: {value}}}\n")
    refused(path, rf"line [24].*({YAML[value]})", load_script)


def laughs() -> str:
    names = "abcdefghij"
    merged = "".join(
        f"- &{new} {{<<: [{', '.join([f'*{old}'] * 10)}], {new}: 1}}\n"
        for old, new in itertools.pairwise(names)
    )
    return "- &a {" + ", ".join(f"k{i}: 1" for i in range(20)) + "}\n" + merged


SCRIPTS = {
    "merges.yaml": (laughs(), "line 3: .*a mapping has .* entries"),
    "itself.yaml": ("- &a [*a]\n", "line 1: .*recursive"),
    "itself_in.yaml": ("- &a {speaker_id: A, text: x, options: *a}\n", "line 1: .*recursive"),
    "itself_merged.yaml": ("- &a {<<: *a, text: x}\n", r"segment 1 \(line 1\)"),
    "deep.yaml": (SEGMENT + "- " + "[" * 100_000, "line 2: .*nested deeper than 32"),
    "deep_block.yaml": ("- " * 5000 + "x", "line 1: .*nested deeper than 32"),
    "nul.yaml": (SEGMENT + "\n- \0", "line 3: it is no text: it holds NUL bytes"),
    "control.yaml": (SEGMENT + "\n- \x07", "line 3: "),
    "long.yaml": ("- " + "x" * 2_100_000, "expected at most 2000000 of YAML"),
    "deep.json": ("[\n" + "[" * 1_000_000, "line 2: .*nested deeper than 32"),
    "quotes.json": ('["' + '\\"' * 1_000_000, "line 1: expected JSON"),
    "digits.json": (
        '[{"speaker_id": "A", "text": "x"},\n {"speaker_id": "A", "text": "x",\n "options": '
        f'{{"seed": {"9" * 5000}}}}}]', "line 3: a number has 5000 digits",
    ),
    "exponent.json": (
        '[{"speaker_id": "A", "text": "x", "options": {"temperature": 1e999}}]', "line 1.*inf",
    ),
    "nan.json": ('[{"speaker_id": "A", "text": "x", "silence_after_s": NaN}]', "line 1.*finite"),
    "nul.json": ("[\n\0]", "line 2: it is no text"),
    "many.json": ("[" + "1," * 1_000_000 + "1]", "1000001 segments, expected at most"),
    "nul.txt": ("A: x\nB: \0", "line 2: it is no text"),
    "line.txt": ("A: " + "x " * 1_000_000, "line 1: a segment has 2000000 characters|line 1"),
    "lines.txt": ("A: x\n" + " and so on\n" * 100_000, "a segment has .* characters up to here"),
    "cues.srt": ("00:00:01,000 --> 00:00:02,000\nand so on\n\n" * 30_000, "a segment has .* chara"),
    "tags.srt": ("00:00:01,000 --> 00:00:02,000\n" + "<1" * 1_000_000, "no cues|a segment has"),
    "voices.vtt": ("WEBVTT\n\n00:01.000 --> 00:02.000\n" + "<v a" * 500_000, "a segment has|no cu"),
    "braces.vtt": ("WEBVTT\n\n00:01.000 --> 00:02.000\n" + "{\\" * 900_000, "a segment has|no cu"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(tmp_path: Path, name: str) -> None:
    text, message = SCRIPTS[name]
    path = tmp_path / name
    path.write_text(text)
    refused(path, message, load_script)


@pytest.mark.parametrize("read", [load_script, read_text, read_recording, VoiceFeatures.load])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device", "NUL", "missing"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, read: Callable, kind: str) -> None:
    path = tmp_path / "a.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "NUL":
        path = Path("a\0b")
    with bounded(), pytest.raises(InvalidRequest):
        read(path)


@pytest.mark.parametrize("read", [load_script, VoiceFeatures.load])
def test_a_file_without_an_end(tmp_path: Path, read: Callable) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10**12)
    refused(tmp_path / "huge", r"has 1000000\.0 MB, expected at most 8\.0", read)
    assert MAX_BYTES == 8e6


@pytest.fixture
def library(tmp_path: Path) -> VoiceLibrary:
    kept = VoiceLibrary(tmp_path / "voices")
    kept.add("Alice", VOICE)
    VOICE.save(tmp_path / "outside.npz")
    return kept


@pytest.mark.parametrize(
    "name", ["../outside", "../outside.npz", "/etc/passwd", "..", "a/b", "a\0"]
)
def test_a_name_is_no_path(library: VoiceLibrary, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no voice"):
        library.named(name)
    with pytest.raises(InvalidRequest, match=r"voice .*: it"):
        library.path_of(name)


def test_a_link_out_of_the_folder_is_no_voice(library: VoiceLibrary, tmp_path: Path) -> None:
    (library.folder / "Link.npz").symlink_to(tmp_path / "outside.npz")
    (library.folder / "Circle.npz").symlink_to("Circle.npz")
    (library.folder / "Within.npz").symlink_to("Alice.npz")
    os.mkfifo(library.folder / "Pipe.npz")
    assert library.names() == ["Alice", "Within"]
    assert "Link" not in library
    before = (tmp_path / "outside.npz").read_bytes()
    (library.folder / "Bob.new").symlink_to(tmp_path / "outside.npz")
    library.add("Bob", VOICE + VOICE)
    assert (tmp_path / "outside.npz").read_bytes() == before


def test_a_script_names_voices_and_no_files(
    library: VoiceLibrary, tmp_path: Path, monkeypatch
) -> None:
    from support.command_line import run

    monkeypatch.setenv("VOICEREEL_VOICES", str(library.folder))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "a.json"
    script.write_text('[{"speaker_id": "outside.npz", "text": "x"}]')
    code, _, err = run("script", str(script), "-o", "out.wav", "--url", "127.0.0.1:1")
    assert code == 2 and "no voice 'outside.npz'" in err
