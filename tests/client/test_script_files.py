"""Script files: every format gives the same segments; an error names the line."""

import json
from pathlib import Path
from typing import Any

import pytest

from voicereel import InvalidRequest, Segment, load_script, parse_script
from voicereel.script.files import parse_script_text

SEGMENTS = [
    {"speaker_id": "ALICE", "text": "Good morning: Bob.", "silence_after_s": 0.5},
    {"speaker_id": "BOB", "text": "Grüße!", "options": {"temperature": 0.9, "seed": 3}},
]
YAML = """\
# a play
- speaker_id: ALICE
  text: "Good morning: Bob."
  silence_after_s: 0.5

- {speaker_id: BOB, text: Grüße!, options: {temperature: 0.9, seed: 3}}
"""
PLAIN = """\
# a play
ALICE: Good morning:
    Bob.

  # in between
BOB: Grüße!
"""


def written(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def test_fields() -> None:
    first, second = parse_script(SEGMENTS)
    assert (first.speaker_id, first.text) == ("ALICE", "Good morning: Bob.")
    assert (first.options, first.silence_after_s) == ({}, 0.5)
    assert (second.options, second.silence_after_s) == ({"temperature": 0.9, "seed": 3}, None)
    assert type(second.options["seed"]) is int
    assert parse_script([first, SEGMENTS[1]]) == (first, second)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_files_hold_what_lists_hold(tmp_path: Path, encoding: str) -> None:
    expected = parse_script(SEGMENTS)
    texts = {
        "a.json": json.dumps(SEGMENTS),
        "b.json": json.dumps(SEGMENTS, indent="\t", ensure_ascii=False),
        "a.yaml": YAML,
        "a.YML": json.dumps(SEGMENTS),
    }
    for name, text in texts.items():
        assert load_script(written(tmp_path, name, text, encoding)) == expected, name
    plain = load_script(written(tmp_path, "a.txt", PLAIN, encoding))
    assert [(s.speaker_id, s.text) for s in plain] == [(s.speaker_id, s.text) for s in expected]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"speaker_id": "A"}, "text is missing, expected speaker_id, text, options"),
        ({"speaker_id": "A", "text": " \n"}, r"text is ' \\n', expected at least one"),
        ({"speaker_id": "", "text": "x"}, "speaker_id is '', expected"),
        ({"speaker_id": False, "text": "x"}, "speaker_id is False, .* string. Put it in quotes"),
        ({"speaker_id": "A", "text": "x", "speed": 2}, "speed is no field of a segment, expected"),
        ({"speaker_id": "A", "text": "x", "silence_after_s": -1}, "silence_after_s is -1, exp"),
        ({"speaker_id": "A", "text": "x", "silence_after_s": 500}, "less than or equal to 60"),
        ({"speaker_id": "A", "text": "x", "silence_after_s": float("nan")}, "is nan, expected"),
        ({"speaker_id": "A", "text": "x", "silence_after_s": "1"}, "is '1', expected a valid"),
        ({"speaker_id": "A", "text": "x", "options": {"speed": 2}}, "speed: no option speed"),
        ({"speaker_id": "A", "text": "x", "options": {"seed": 1.5}}, "seed: 'float' object"),
        ({"speaker_id": "A", "text": "x", "options": {"seed": -1}}, "seed is -1, expected 0"),
        ({"speaker_id": "A", "text": "x", "options": {"top_p": "0.5"}}, "top_p is '0.5', expe"),
        (("A", "x"), r"got \('A', 'x'\), expected a valid dictionary"),
        (None, "got None, expected a valid dictionary"),
    ],
)
def test_a_wrong_segment_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^script: segment 2: .*{message}"):
        parse_script([SEGMENTS[0], wrong])


@pytest.mark.parametrize("wrong", [{"segments": []}, "A: b", None, [], ()])
def test_what_is_no_list_of_segments(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^script (is .* a list|has no segments)"):
        parse_script(wrong)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[\n{"speaker_id": "A",\n "text": "x"},\n\n  {"text": "y"}]', r"2 \(line 5\)"),
        ("a.json", '[{"speaker_id": "A", "text": "x"}, {"text": "y"}]', r"2 \(line 1\)"),
        ("a.json", '[\n{"speaker_id": "A" "text": "x"}]', r"a.json, line 2: expected JSON"),
        ("a.json", '{"speaker_id": "A"}', "expected a list"),
        ("a.json", "[" * 100_000, "expected JSON"),
        ("a.yaml", YAML + "- {text: y}\n", r"segment 3 \(line 7\): speaker_id is missing"),
        ("a.yaml", YAML + "- {speaker_id: [NO], text: y}\n", r"\(line 7\): speaker_id is \[False"),
        ("a.yaml", YAML + "- {speaker_id: [\n", "a.yaml, line 8: expected YAML, but expected"),
        ("a.yaml", "- !!python/object:os.system {}", "line 1: expected YAML, but could not"),
        ("a.yaml", "- 2026-99-99", "expected YAML, but '2026-99-99' is no timestamp .month"),
        ("a.yaml", "", "has no segments"),
        ("a.yaml", "ALICE: hello", "expected a list of segments"),
        ("a.yaml", "- \x01", "expected YAML"),
        ("a.txt", "ALICE: hello\n\nBob says hello\n", "a.txt, line 3: got 'Bob says hello'"),
        ("a.txt", "  \n: hello", "a.txt, line 2: got ': hello', expected SPEAKER: text"),
        ("a.txt", "# nothing\nALICE:\n", r"segment 1 \(line 2\): text is ''"),
        ("a.txt", "# nothing\n", "has no segments"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as raised:
        load_script(written(tmp_path, name, text))
    assert str(tmp_path / name) in str(raised.value)
    assert len(str(raised.value)) < 400


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot read .*missing\.txt: No such file"):
        load_script(tmp_path / "missing.txt")
    with pytest.raises(InvalidRequest, match=r"a\.txt, line 2: .*expected UTF-8"):
        load_script(written(tmp_path, "a.txt", "A: x\nB: Grüße", "latin-1"))


def test_a_message_stays_short_however_long_the_value(tmp_path: Path) -> None:
    bomb = "- &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"- &{new} [{','.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(InvalidRequest, match=r"segment 1 \(line 1\)") as raised:
        load_script(written(tmp_path, "a.yaml", bomb))
    assert len(str(raised.value)) < 400


def test_segments_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Segment(speaker_id="A", text="x").text = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    "word",
    ["12:30", "yes", "NO", "on", "1e3", "0x10", "1_000", "2024-01-01", "2026-99-99", "null", ".inf",
     "750", "3.0", "007", "2001-12-14t21:59:43Z", "true", "0b1"],
)  # fmt: skip
def test_yaml_words_are_what_is_written(tmp_path: Path, word: str) -> None:
    path = written(tmp_path, "a.yaml", f"- {{speaker_id: {word}, text: {word}}}\n")
    assert [(s.speaker_id, s.text) for s in load_script(path)] == [(word, word)]
    base = f"- &a {{speaker_id: A, text: {word}}}\n- {{<<: *a, options: {{seed: 0x10}}}}\n"
    assert [s.text for s in load_script(written(tmp_path, "a.yaml", base))] == [word, word]
    assert load_script(tmp_path / "a.yaml")[1].options == {"seed": 16}


def test_yaml_that_is_empty_is_no_word(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="text is '', expected at least one visible"):
        load_script(written(tmp_path, "a.yaml", "- {speaker_id: A, text: }\n"))


@pytest.mark.parametrize(
    "text",
    [
        "Alice\uff1aGood morning, Bob.\nBob \uff1a12:30.",
        "\ufeffAlice: Good morning, Bob.\r\n\r\nBob: 12:30.\r\n",
        "Alice: Good morning, Bob.\rBob: 12:30.",
        "Alice\u00a0: Good morning, Bob.\u2028Bob\ufe55 12:30.",
        "Alice:\n\u3000Good morning,\n\u3000Bob.\n\ufeffBob\ufe1312:30.",
        "# a play\nAlice:Good morning, Bob.\n\u2029Bob\t:\t12:30.",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_colons_and_line_ends_of_all_kinds(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    said = [(s.speaker_id, s.text.strip()) for s in load_script(tmp_path / "a.txt")]
    assert said == [("Alice", "Good morning, Bob."), ("Bob", "12:30.")]


@pytest.mark.parametrize(
    "text", [PLAIN, YAML, json.dumps(SEGMENTS), json.dumps(SEGMENTS, indent=1), f"---\n{YAML}"]
)
def test_a_script_without_a_name_is_known_by_its_first_lines(text: str, tmp_path: Path) -> None:
    expected = [(s.speaker_id, s.text) for s in parse_script(SEGMENTS)]
    for script in (
        parse_script_text(text.encode(), "standard input"),
        load_script(written(tmp_path, "play", text)),
    ):
        assert [(s.speaker_id, s.text) for s in script] == expected
    with pytest.raises(InvalidRequest, match=r"^standard input, line 2: got 'what'"):
        parse_script_text(b"A: x\nwhat", "standard input")
