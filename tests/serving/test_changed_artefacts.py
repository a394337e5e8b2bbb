"""Models refuse to load what is not as it was exported. The models run in this process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ensemble.contract import manifest
from ensemble.contract.facts import Facts
from support.pb_utils_stand_in import load

pytestmark = pytest.mark.torch
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository that the test may spoil."""
    shutil.copytree(repository, tmp_path / "repository")
    return tmp_path / "repository"


def start(repository: Path, name: str) -> Any:
    """Load a model as Triton does."""
    backend = {"fish_decoder": "onnxruntime", "fish_encoder": "onnxruntime"}.get(name)
    path = PROJECT / "model_repository" / name / "1" / "model.py"
    if backend:
        path = PROJECT / "backends" / backend / "model.py"
    config = {"name": name, "max_batch_size": 1, "input": [], "output": []}
    model = load(path).TritonPythonModel()
    arguments = {"model_repository": str(repository / name), "model_version": "1"}
    model.initialize(
        {**arguments, "model_instance_kind": "CPU", "model_config": json.dumps(config)}
    )
    return model


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("fish_llama", "llama.pt"),
        ("fish_llama", "checkpoint.json"),
        ("fish_prompt", "tokenizer.tiktoken"),
        ("fish_reference", "checkpoint.json"),
        ("fish_checkpoint", "checkpoint.json"),
        ("fish_decoder", "model.onnx"),
        ("fish_encoder", "model.onnx"),
    ],
)
def test_4_kib_of_zeros_in_a_file(copy, name, file) -> None:
    path = copy / name / "1" / file
    with path.open("r+b") as opened:
        opened.seek(path.stat().st_size // 2)
        opened.write(bytes(4096))
    if file == "checkpoint.json":  # still to be read as JSON
        other = "fish_prompt" if name == "fish_llama" else "fish_llama"
        values = json.loads((copy / other / "1" / file).read_text())
        path.write_text(json.dumps({**values, "semantic_begin_id": 7}))
    with pytest.raises(ValueError, match=f"^{name}: .*{file} is not the file that was exported"):
        start(copy, name)


def test_a_foreign_checkpoint_in_one_model(copy) -> None:
    path = copy / "fish_prompt" / "1" / "checkpoint.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "checkpoint_id": "0123456789abcdef"}))
    for name in ("fish_llama", "fish_prompt", "fish_reference", "fish_decoder"):
        with pytest.raises(ValueError, match=f"^{name}: the models are of different checkpoints"):
            start(copy, name)


def test_an_older_export_is_served_with_a_warning(copy, capsys) -> None:
    for path in copy.glob(f"*/1/{manifest.FILE_NAME}"):
        path.unlink()
    start(copy, "fish_llama").finalize()
    start(copy, "fish_reference")
    said = capsys.readouterr().out
    assert said.count("is missing, so its files are served unchecked. Re-export with: make") == 1


def test_every_model_of_an_export_has_its_hashes(repository) -> None:
    """Code is not among them: it comes with this project, and not with the checkpoint."""
    made = {path.parents[1].name: path for path in repository.glob(f"*/1/{manifest.FILE_NAME}")}
    weights = {"fish_decoder", "fish_encoder", "fish_llama"}
    assert made.keys() == weights | {"fish_checkpoint", "fish_prompt", "fish_reference"}
    facts = Facts.load(repository / "fish_llama" / "1")
    for name, path in made.items():
        said = json.loads(path.read_text())
        assert Facts.of(said["facts"]) == facts
        beside = {p.name for p in path.parent.iterdir() if p.is_file()}
        assert said["sha256"].keys() >= beside - {manifest.FILE_NAME, "model.py", ".gitkeep"}, name
        assert "model.py" not in said["sha256"]
