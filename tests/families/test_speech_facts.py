"""How a checkpoint speaks: an optional file, read strictly, and it reaches the facts."""

import json

import pytest

from ensemble.contract.facts import LETTERS_PER_S, Facts
from families.registry import CheckpointError
from families.speech import FILE_NAME, speech_facts
from support.facts import FACTS


def test_no_file_no_facts(tmp_path) -> None:
    assert speech_facts(tmp_path) == {}
    assert (FACTS.letters_per_request, FACTS.letters_per_s) == (0, LETTERS_PER_S)


def test_what_the_file_says_is_saved_and_read_again(tmp_path) -> None:
    (tmp_path / FILE_NAME).write_text('{"letters_per_request": 42, "letters_per_s": [7, 19.5]}')
    found = speech_facts(tmp_path)
    assert found == {"letters_per_request": 42, "letters_per_s": (7.0, 19.5)}
    version = tmp_path / "fish_checkpoint" / "1"
    version.mkdir(parents=True)
    Facts(**vars(FACTS) | found).save(version)
    assert Facts.load(version) == Facts(**vars(FACTS) | found)


def test_an_export_from_before_has_the_defaults(tmp_path) -> None:
    version = tmp_path / "fish_llama" / "1"
    version.mkdir(parents=True)
    FACTS.save(version)
    path = version / "checkpoint.json"
    old = json.loads(path.read_text())
    del old["letters_per_request"], old["letters_per_s"]
    path.write_text(json.dumps(old))
    assert Facts.load(version) == FACTS


@pytest.mark.parametrize(
    "text",
    [
        "no json", "[]", "{}", '{"letters_per_s": 3}', '{"letters_per_s": [9, 7]}',
        '{"letters_per_s": [7, 19], "speed": 1}', '{"letters_per_s": [7, 19, 20]}',
        '{"letters_per_s": [7, 19], "letters_per_request": -1}',
        '{"letters_per_s": [7, 19], "letters_per_request": 1.5}',
        '{"letters_per_s": [0, 19]}', '{"letters_per_s": ["x", 19]}',
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(tmp_path, text) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(CheckpointError, match=r"speech\.json: .*expected an object with"):
        speech_facts(tmp_path)


@pytest.mark.torch
def test_the_demo_voice_says_so_in_its_checkpoint(tmp_path) -> None:
    from families.fish_s1 import demo
    from families.fish_s1.presets import PRESETS

    assert PRESETS["demo"].speech == demo.SPEECH
    (tmp_path / FILE_NAME).write_text(json.dumps(demo.SPEECH))
    assert speech_facts(tmp_path)["letters_per_request"] == 42
