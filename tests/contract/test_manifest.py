"""What is served is what was exported: files by their SHA-256, and one checkpoint in all models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.contract import manifest
from ensemble.contract.manifest import FILE_NAME, refuse_changed
from support.facts import FACTS

MODELS = ("fish_llama", "fish_prompt", "fish_decoder")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three models of one export."""
    for model in MODELS:
        folder = tmp_path / "repository" / model / "1"
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(model.encode() * 4096)
        if model != "fish_decoder":
            FACTS.save(folder)
        manifest.write(folder, FACTS)
    return tmp_path / "repository"


def test_an_export_is_served_with_its_facts(repository) -> None:
    said: list[str] = []
    for model in MODELS:
        assert refuse_changed(repository / model / "1", warn=said.append) == FACTS
    assert said == []


@pytest.mark.parametrize("content", [b"", bytes(4096), b"fish_llama" * 4096 + b"\0"])
def test_weights_that_are_not_those_exported(repository, content) -> None:
    (repository / "fish_llama" / "1" / "weights.bin").write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"^fish_llama: .*weights\.bin is not the file that was exported: its SHA-256 is "
        r"[0-9a-f]{16}\.\.\., expected [0-9a-f]{16}\.\.\. It was changed, cut short, or is of "
        r"another export\. Re-export with: make export CHECKPOINT=DIR$",
    ):
        refuse_changed(repository / "fish_llama" / "1")
    refuse_changed(repository / "fish_llama" / "1", names=[])  # which is not loaded
    refuse_changed(repository / "fish_prompt" / "1")


def test_a_changed_file_of_facts(repository) -> None:
    path = repository / "fish_prompt" / "1" / "checkpoint.json"
    path.write_text(path.read_text().replace('"vocab_size": 400', '"vocab_size": 401'))
    with pytest.raises(ValueError, match=r"^fish_prompt: .*checkpoint\.json is not the file"):
        refuse_changed(path.parent)


@pytest.mark.parametrize("told", [True, False], ids=["this export", "before artefacts.json"])
def test_facts_of_another_checkpoint_in_one_model(repository, told) -> None:
    """Whichever model is loaded: all of them would hear codes that mean something else."""
    replace(FACTS, checkpoint_id="abc").save(repository / "fish_prompt" / "1")
    for model in MODELS:
        if not told:
            (repository / model / "1" / FILE_NAME).unlink()
    for model in MODELS:
        with pytest.raises(
            ValueError,
            match=rf"^{model}: the models are of different checkpoints: fish_\w+ of 0, "
            "fish_prompt of abc. Re-export with: make export",
        ):
            refuse_changed(repository / model / "1")


def test_a_whole_model_of_another_export(repository) -> None:
    folder = repository / "fish_decoder" / "1"
    manifest.write(folder, replace(FACTS, checkpoint_id="abc"))
    with pytest.raises(ValueError, match=r"checkpoints: fish_\w+ of 0, fish_decoder of abc"):
        refuse_changed(folder)


def test_an_export_from_before_is_served_with_a_warning(repository) -> None:
    said: list[str] = []
    for model in MODELS:
        (repository / model / "1" / FILE_NAME).unlink()
        if model != MODELS[-1]:
            with pytest.raises(ValueError, match=r"json is missing, and fish_\w+ has one"):
                refuse_changed(repository / model / "1")
    assert refuse_changed(repository / "fish_llama" / "1", warn=said.append) is None
    assert "artefacts.json is missing, so its files are served unchecked. Re-export" in said[0]


def test_a_file_that_came_later_is_said(repository) -> None:
    (repository / "fish_decoder" / "1" / "more.pt").write_bytes(b"x")
    said: list[str] = []
    refuse_changed(repository / "fish_decoder" / "1", ["weights.bin", "more.pt"], said.append)
    assert len(said) == 1 and "more.pt was not exported with the others" in said[0]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"facts": 5}', '{"format": 1, "facts": {}}'])
def test_a_damaged_one(repository, text) -> None:
    path = repository / "fish_llama" / "1" / FILE_NAME
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^fish_llama: .* is damaged. Re-export with"):
        refuse_changed(path.parent)


def test_one_of_another_format(repository) -> None:
    path = repository / "fish_llama" / "1" / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))
    with pytest.raises(ValueError, match=r"artefacts\.json has format 9, expected 1. Re-export"):
        refuse_changed(path.parent)


def test_a_repository_of_another_version(repository, tmp_path) -> None:
    committed = tmp_path / "committed"
    for name in ("fish_llama/1/model.py", "fish_llama/config.pbtxt"):
        for folder in (committed, repository):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"# {name}")
    for model in MODELS:
        manifest.write(repository / model / "1", FACTS, manifest.shells_of(committed, committed))
    assert manifest.other_version(repository, committed) == ""
    copy, own = repository / "fish_llama/config.pbtxt", committed / "fish_llama/1/model.py"
    copy.write_text("# changed by the operator")
    assert manifest.other_version(repository, committed) == ""
    own.write_text("# of a later version")
    said = manifest.other_version(repository, committed)
    assert said == (
        f"{repository} was exported by another version of this project: export again, with "
        f"make export CHECKPOINT=DIR REPOSITORY={repository}"
    )
    for model in MODELS:  # from before the manifest said so
        manifest.write(repository / model / "1", FACTS)
    assert manifest.other_version(repository, committed) == said
    for path in (copy, own):  # what counts is whether the models fit
        name = path.relative_to(repository if path is copy else committed)
        (repository / name).write_bytes((committed / name).read_bytes())
    assert manifest.other_version(repository, committed) == ""
    assert manifest.other_version(tmp_path, committed) == ""  # nothing was exported into it


def test_a_damaged_manifest_says_nothing_of_the_version(repository, tmp_path) -> None:
    for model in MODELS:
        (repository / model / "1" / FILE_NAME).write_text("[]")
    (tmp_path / "committed/fish_llama/1").mkdir(parents=True)
    (tmp_path / "committed/fish_llama/1/model.py").touch()
    assert manifest.other_version(repository, tmp_path / "committed") == ""
