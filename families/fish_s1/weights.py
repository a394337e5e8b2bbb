"""Reads `model.pth` and `codec.pth`: tensors only, under one set of names, exactly as expected.

Upstream loads with `strict=False`: it leaves a missing tensor at random values, and the voice is
noise. Here every tensor must be present, expected and of the right shape.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from families.registry import CheckpointError

_SHOWN = 5  # names that a message lists
_INTEGERS = (torch.int8, torch.uint8, torch.int32)  # dtypes of quantised weights
_SCALE = ":scale"  # suffix of the scales of a packed matrix
_PACKED_FROM = 4096  # elements; smaller tensors are too few bytes to be worth the rounding
_LFS_POINTER = b"version https://git-lfs"


def reject_lfs_pointer(path: Path) -> None:
    """Refuse the pointer that Git LFS leaves where a large file was not fetched.

    Raises:
        CheckpointError: If the file is such a pointer.
    """
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(
                f"{path.name}: is a Git LFS pointer, expected the file itself. "
                "Fetch it with: git lfs pull"
            )


def _read(path: Path) -> dict[str, Tensor]:
    """Map the file into memory and unwrap what training frameworks put around the tensors."""
    reject_lfs_pointer(path)
    if not zipfile.is_zipfile(path):  # a zip file's directory is at its end, where it was cut
        raise CheckpointError(
            f"{path.name}: {path.stat().st_size} bytes, cut short or not a file of torch.save's. "
            "Copy or download it again"
        )
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path.name}: asks to call {found[1] if found else 'code'}, expected tensors only. "
            "Code inside a checkpoint is never run"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: damaged ({str(error).splitlines()[0]}). Copy or download it again"
        ) from error
    if isinstance(loaded, dict) and "state_dict" in loaded:
        loaded = loaded["state_dict"]
    values = loaded.values() if isinstance(loaded, dict) else [loaded]
    if kinds := {type(value).__name__ for value in values if not isinstance(value, Tensor)}:
        raise CheckpointError(
            f"{path.name}: holds {listed(sorted(kinds))}, expected tensors by their names"
        )
    loaded = unpacked(loaded)
    integer = [name for name, tensor in loaded.items() if tensor.dtype in _INTEGERS]
    if integer:
        raise CheckpointError(
            f"{path.name}: holds integer weights ({listed(integer)}), expected floating point. "
            "Export from the checkpoint before quantisation"
        )
    return loaded


def packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round large matrices to 8 bits with a scale for each row, and the rest to half precision."""
    small: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.ndim != 2 or tensor.numel() < _PACKED_FROM:
            small[name] = tensor.half()
            continue
        scale = tensor.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        small[name] = (tensor / scale).round().to(torch.int8)
        small[name + _SCALE] = scale
    return small


def unpacked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Expand packed matrices to float32; other tensors stay as they are."""
    scales = {name: t for name, t in weights.items() if name.endswith(_SCALE)}
    return {
        name: tensor.float() * scales[name + _SCALE] if name + _SCALE in scales else tensor
        for name, tensor in weights.items()
        if name not in scales
    }


def read_llama(path: Path) -> dict[str, Tensor]:
    """The tensors of `model.pth` under upstream's names.

    Source: fish-speech 0.1.0, `BaseTransformer.from_pretrained` and `Attention.load_hook`.
    """
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in _read(path).items()
        if "audio_" not in name
    }
    return fused(weights)


def fused(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join queries, keys and values where a file has them apart."""
    for name in [name for name in weights if name.endswith(".wq.weight")]:
        separate = [name.replace(".wq.", f".{part}.") for part in ("wq", "wk", "wv")]
        if all(part in weights for part in separate):
            joined = torch.cat([weights.pop(part) for part in separate])
            weights[name.replace(".wq.", ".wqkv.")] = joined
    return weights


def read_codec(path: Path) -> dict[str, Tensor]:
    """The tensors of `codec.pth` under upstream's names, without the mask tables.

    Source: fish-speech 0.1.0, models/dac/inference.py `load_model`.
    """
    weights = _read(path)
    if any("generator." in name for name in weights):
        weights = {
            name.replace("generator.", ""): tensor
            for name, tensor in weights.items()
            if "generator." in name
        }
    return {name: t for name, t in weights.items() if not name.endswith("causal_mask")}


def check(
    file: str,
    weights: Mapping[str, Tensor],
    model: torch.nn.Module,
    published: Callable[[str], str] = str,
) -> None:
    """Compare the tensors of a file with a model.

    Args:
        file: For messages.
        weights: Tensors under the model's names.
        model: May be on the meta device.
        published: The name that a tensor has in the file, for messages.

    Raises:
        CheckpointError: If one is missing, unexpected, or of another shape.
    """
    expected = dict(model.named_parameters())
    optional = dict(model.named_buffers())
    missing = [published(name) for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected and name not in optional]
    known = {**optional, **expected}
    mismatched = [
        f"{published(name)} {tuple(tensor.shape)} instead of {tuple(known[name].shape)}"
        for name, tensor in weights.items()
        if name in known and tensor.shape != known[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    told = [f"{len(names)} {fault}: {listed(names)}" for fault, names in faults.items() if names]
    if told:
        raise CheckpointError(
            f"{file}: does not fit the model its configuration describes. Of its tensors, "
            f"{'; '.join(told)}. Use the files of one and the same checkpoint"
        )


def listed(names: Iterable[str]) -> str:
    """The first few of the names, for a message."""
    names = list(names)
    left = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {left} more" if left > 0 else "")
