"""`llama.pt` read by mapping it: the same tensors as `torch.jit.load` gives, and no code is run."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from engine.lm.archive import read_archive
from engine.lm.weights import load
from export.trace import torchscript

pytestmark = pytest.mark.torch


class Part(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        whole = torch.arange(24).to(dtype)
        self.weight = torch.nn.Parameter(whole.view(4, 6).t(), requires_grad=False)
        self.register_buffer("count", torch.tensor([3, 1]))
        self.register_buffer("tied", self.weight[1:3])
        self.register_buffer("nothing", torch.empty(0, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight.sum() + self.tied.sum() + self.count.sum() + self.nothing.sum()


class Whole(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(Part(t) for t in (torch.float32, torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[1](self.parts[0](x))


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "llama.pt"
    torchscript(Whole(), {"forward": (torch.ones(2),)}).save(
        str(path), _extra_files={"shape.json": "{é}"}
    )
    return path


def test_the_tensors_are_those_of_torch(path) -> None:
    tensors, text = read_archive(path, "shape.json")
    expected = torch.jit.load(str(path)).state_dict()
    assert tensors.keys() == expected.keys() and text == "{é}"
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name])
    assert str(path) in Path("/proc/self/maps").read_text("utf-8")
    assert read_archive(path, "other.json")[1] == ""


def test_a_damaged_file_is_named(path) -> None:
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"llama\.pt is no TorchScript archive, or cut short"):
        load(path)


def test_an_archive_without_a_shape_is_of_an_older_version(path) -> None:
    torchscript(Whole(), {"forward": (torch.ones(2),)}).save(str(path))
    with pytest.raises(ValueError, match=r"is of an older version\. Re-export with: make export"):
        load(path)


def test_code_in_an_archive_is_not_run(tmp_path) -> None:
    class Malice:
        def __reduce__(self):
            return Path.touch, (tmp_path / "written",)

    path = tmp_path / "llama.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("llama/data.pkl", pickle.dumps(Malice()))
    with pytest.raises(ValueError, match=r"no TorchScript archive.*asks for"):
        read_archive(path, "shape.json")
    assert not (tmp_path / "written").exists()
