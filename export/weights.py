"""Reads `model.pth` and `codec.pth`: plain tensors only, upstream's spellings made one, no surprises.

Upstream loads with `strict=False`: a missing tensor is left at random there and the voice is
noise. Here every tensor must be present, expected and of the right shape.
"""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_SHOWN = 5  # names listed in a message before "..."
_LFS_POINTER = b"version https://git-lfs"


class CheckpointError(ValueError):
    """The checkpoint cannot be served; the message says which file, why, and what to do."""


def reject_lfs_pointer(path: Path) -> None:
    """
    Raises:
        CheckpointError: If the file is what Git leaves where a large file was not fetched.
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
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n\n")[-1].splitlines()[0]
        raise CheckpointError(
            f"{path.name}: holds more than tensors, or is damaged ({reason}). Expected a "
            "state dict saved with torch.save; code inside a checkpoint is never run"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: cannot be read, {path.stat().st_size} bytes, cut short or damaged "
            f"({str(error).splitlines()[0]}). Copy or download it again"
        ) from error
    if isinstance(loaded, dict) and "state_dict" in loaded:
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(
            f"{path.name}: got {type(loaded).__name__}, expected a dict of tensors by name"
        )
    integer = [name for name, tensor in loaded.items() if tensor.dtype in (torch.int8, torch.int32)]
    if integer:
        raise CheckpointError(
            f"{path.name}: holds integer weights ({listed(integer)}), expected floating point. "
            "Export from the checkpoint before quantisation"
        )
    return loaded


def read_llama(path: Path) -> dict[str, Tensor]:
    """The tensors of `model.pth` under upstream's names.

    Source: fish-speech 0.1.0, `BaseTransformer.from_pretrained` and `Attention.load_hook`.
    """
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in _read(path).items()
        if "audio_" not in name
    }
    for name in [name for name in weights if name.endswith(".wq.weight")]:
        separate = [name.replace(".wq.", f".{part}.") for part in ("wq", "wk", "wv")]
        if all(part in weights for part in separate):
            fused = torch.cat([weights.pop(part) for part in separate])
            weights[name.replace(".wq.", ".wqkv.")] = fused
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


def check(file: str, weights: Mapping[str, Tensor], model: torch.nn.Module) -> None:
    """Hold the tensors of a file against a model (which may be on the meta device).

    Raises:
        CheckpointError: If one is missing, unexpected, or of another shape.
    """
    expected = dict(model.named_parameters())
    optional = dict(model.named_buffers())
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected and name not in optional]
    known = {**optional, **expected}
    mismatched = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(known[name].shape)}"
        for name, tensor in weights.items()
        if name in known and tensor.shape != known[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    told = [f"{len(names)} {fault}: {listed(names)}" for fault, names in faults.items() if names]
    if told:
        raise CheckpointError(
            f"{file}: does not fit the model its configuration describes. Tensors "
            f"{'; '.join(told)}. Use the files of one and the same checkpoint"
        )


def listed(names: Iterable[str]) -> str:
    """The first few of the names, for a message."""
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
