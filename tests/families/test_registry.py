"""The registry of families: which one a folder is of, and that fish_prompt needs no torch."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.contract.facts import Facts
from families.registry import (
    FAMILIES,
    CheckpointError,
    family_of,
    family_with_preset,
    prompt_builder,
)
from support.facts import FACTS

PROJECT = Path(__file__).resolve().parents[2]


def test_the_prompt_builder_is_the_familys_and_needs_no_torch(repository) -> None:
    folder = repository / "fish_prompt" / "1"
    code = (
        "import sys; from pathlib import Path; from families.registry import prompt_builder; "
        f"b = prompt_builder(Path({str(folder)!r})); "
        "print(type(b).__module__, b.build('Hello', [])[0].shape[0], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    family, books = Facts.load(folder).family, Facts.load(folder).num_codebooks
    assert done.stdout.split() == [f"families.{family}.prompt", str(1 + books), "False"]


def test_a_family_that_is_not_there_is_named(tmp_path) -> None:
    folder = tmp_path / "fish_prompt" / "1"
    folder.mkdir(parents=True)
    dataclasses.replace(FACTS, family="fish_s9").save(folder)
    with pytest.raises(ValueError, match=r"^fish_prompt: .* 'fish_s9', expected fish_s1.* export"):
        prompt_builder(folder)


@pytest.mark.torch
def test_a_checkpoint_is_of_the_family_that_its_config_names(tmp_path) -> None:
    for name, model_type in FAMILIES.items():
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert family_of(tmp_path).name == name


@pytest.mark.torch
@pytest.mark.parametrize("config", [None, "not JSON", "[]", '{"model_type": "llama"}'])
def test_a_checkpoint_of_no_family_is_refused_by_a_loader(tmp_path, config) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"missing, expected config\.json"):
        family_of(tmp_path).load_checkpoint(tmp_path)


@pytest.mark.torch
def test_a_preset_names_its_family(tmp_path) -> None:
    assert family_with_preset("s1mini").name == family_with_preset("demo").name == "fish_s1"
    with pytest.raises(CheckpointError, match="got 'nonesuch', expected s1mini"):
        family_with_preset("nonesuch").make_checkpoint("nonesuch", tmp_path / "new")
