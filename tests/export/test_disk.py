"""What an export refuses before any work."""

import io
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("fish_speech")

from rich.console import Console

from export import __main__ as main
from export.run import Asked, _check_disk, export_checkpoint
from families.fish_s2.make_checkpoint import make_checkpoint
from families.registry import CheckpointError

pytestmark = [pytest.mark.torch, pytest.mark.slow]
Usage = namedtuple("Usage", "total used free")


def test_too_little_disk_is_said_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "codec.pth").write_bytes(bytes(1000))
    (tmp_path / "model.pth").write_bytes(bytes(5000))
    console = Console(file=io.StringIO(), width=300)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 9_000))
    given = tmp_path, tmp_path / "repository"
    _check_disk(*given, Asked(), 2, console)  # 4 x 1000 + 5000
    with pytest.raises(CheckpointError, match=r"needs up to 0.0 GB of disk at .*, but 0.0 GB are"):
        _check_disk(*given, Asked(), 3, console)
    with pytest.raises(CheckpointError, match="needs up to"):
        _check_disk(*given, Asked(onnx_llama=True), 2, console)
    assert "takes up to 0.0 GB of disk" in console.file.getvalue()


def test_what_s2_has_not_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint("s2-tiny", tmp_path / "s2")
    console, repository = Console(file=io.StringIO()), tmp_path / "repository"
    with pytest.raises(CheckpointError, match=r"--full-vocabulary is not for .*family fish_s2"):
        export_checkpoint(tmp_path / "s2", repository, console, Asked(full_vocabulary=True))
    assert not repository.exists()


def test_a_large_model_is_no_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint("s2-tiny", tmp_path / "s2")
    monkeypatch.setattr("families.fish_s2.checkpoint._LARGE", 0)
    asked = Asked(onnx_llama=True, torchscript_only=True)
    console = Console(file=io.StringIO())
    with pytest.raises(CheckpointError, match=r"too large for ONNX.*Leave ONNX_LLAMA out"):
        export_checkpoint(tmp_path / "s2", tmp_path / "repository", console, asked)
    assert not (tmp_path / "repository").exists()


def test_an_export_of_s2_puts_its_files_in_place(tmp_path: Path) -> None:
    make_checkpoint("s2-tiny", tmp_path / "s2")
    console = Console(file=io.StringIO(), width=400)
    result = export_checkpoint(
        tmp_path / "s2", tmp_path / "repository", console, Asked(torchscript_only=True)
    )
    assert "fish_prompt/1/tokenizer.json" in result.sizes
    assert "Built with Fish Audio" in console.file.getvalue()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/x/llama.pt"), "/x/llama.pt: No space left on "),
        (OSError(30, "Read-only file system"), "Read-only file system. Make room"),
        (FileNotFoundError(2, "No usable temporary directory"), "No usable temporary directory. "),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
         "failed writing file data/0: file write failed. Make room"),
    ],
)  # fmt: skip
def test_a_disk_that_takes_no_more(tmp_path: Path, monkeypatch, error: Exception, said) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("export.run.export_checkpoint", fail)
    with pytest.raises(SystemExit, match=said) as ended:
        main.run(tmp_path, tmp_path, full_vocabulary=False, compile=False, int8=False,
                 onnx_llama=False)  # fmt: skip
    assert str(ended.value).startswith("export: ")
    assert str(ended.value).endswith("REPOSITORY=DIR, and TMPDIR=DIR for temporary files")


def test_another_error_is_not_one_of_the_disk(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("export.run.export_checkpoint", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main.run(tmp_path, tmp_path, compile=False)
