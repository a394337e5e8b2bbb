"""A file of the codec on kernels: what it says of itself, and what it needs of a machine.

Such a file is never the only artefact: where it does not fit, the same graph is served from
`model.pt` or `model.onnx`.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.kernels.cpu import instructions, int8_fault
from ensemble.contract.window import refuse_windows

FORMAT = "1"  # of the files; goes up when an older file cannot be served any more
FILE_NAME = "model-kernels.pt"
INT8_FILE_NAME = "model-int8.pt"  # the decoder in 8 bits, beside it, if the export was asked for it
DESCRIPTION = "description.json"  # in the file
PRECISIONS = ("float32", "bfloat16", "int8")  # the more exact first
PARAMETER = "KERNELS_FILENAME"  # of config.pbtxt; native backends ignore parameters unknown to them


def machine_fault(int8: bool = False) -> str | None:
    """Why the codec cannot be on kernels on this machine, or, with int8, in 8 bits; or None."""
    from engine.kernels import build  # heavy: a server that serves ONNX does without torch

    if fault := build.fault():
        return fault
    return int8_fault() if int8 else None


def description(
    inputs: list[str], precision: str, needs: Collection[str], **facts: int
) -> dict[str, str]:
    """Say in a file what it is.

    Args:
        inputs: Names of the model's inputs; the decoder's in the order of the file's arguments.
        precision: Of its convolutions, one of `PRECISIONS`.
        needs: Instructions for which its weights are laid out, in Linux's names.
        facts: `samples_per_frame`; `frames`, the number of positions that it knows; the decoder's
            `codebooks`, rows of codes that it reads, and `history_frames`, see
            `engine.codec.streaming`; the encoder's `state_size`.
    """
    return {
        **{name: str(number) for name, number in facts.items()},
        "format": FORMAT,
        "inputs": " ".join(inputs),
        "precision": precision,
        "instructions": " ".join(sorted(needs)),
    }


def save(module: Any, path: Path, described: Mapping[str, str]) -> None:
    """Write a `KernelDecoder` or `KernelEncoder` with its description."""
    import torch

    script = torch.jit.script(module.eval())
    torch.jit.save(script, str(path), _extra_files={DESCRIPTION: json.dumps(described)})


def load(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a file: its module and its description. The operators must have been loaded.

    Raises:
        ValueError: If it calls operators that there are not.
    """
    import torch

    extra = {DESCRIPTION: ""}
    try:
        module = torch.jit.load(str(path), _extra_files=extra)
    except RuntimeError as error:
        if "voicereel::" not in str(error):
            raise
        reason = f"{path.name} calls operators of another version: make export CHECKPOINT=DIR"
        raise ValueError(reason) from error
    return module, json.loads(extra[DESCRIPTION])


def unfit(described: Mapping[str, str], inputs: list[str], asked: str) -> str | None:
    """Why a file cannot be used here, or None.

    Args:
        described: As `description` made it.
        inputs: Names of the inputs that config.pbtxt declares.
        asked: The least exact of `PRECISIONS` that is allowed.
    """
    if described.get("format") != FORMAT:
        return "it is of another version: export it again"
    if sorted(described["inputs"].split()) != sorted(inputs):
        return f"it takes {described['inputs']!r}, config.pbtxt says {' '.join(inputs)!r}"
    if missing := set(described["instructions"].split()) - instructions():
        return f"it was made for a CPU with {', '.join(sorted(missing))}: export it again here"
    if described["precision"] not in PRECISIONS[: PRECISIONS.index(asked) + 1]:
        return f"it computes in {described['precision']}, and {asked} is asked for"
    return None


def refuse_window(described: Mapping[str, str], codes: np.ndarray, new_frames: np.ndarray) -> None:
    """Keep from the decoder what would make it read beyond its tables, which it does not check.

    Raises:
        ValueError: Says what was expected.
    """
    refuse_windows(codes, new_frames, int(described["codebooks"]), int(described["frames"]))
