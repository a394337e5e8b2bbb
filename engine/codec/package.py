"""The codec by our own operators for CPUs: what a file of it needs of a machine.

It is never the only artefact: where it does not fit, the same graph is served from `model.pt` or
`model.onnx`.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

FILE_NAME = "model-kernels.pt"
INT8_FILE_NAME = "model-int8.pt"  # beside it, if the export was asked for one
DESCRIPTION = "description.json"  # in the file
PRECISIONS = ("float32", "bfloat16", "int8")  # the more exact first
PARAMETER = "COMPILED_FILENAME"  # of config.pbtxt; native backends do not know it and pass it over
ENCODER_FRAMES = 64  # in one run of the encoder, of all rows together
# The families of instructions that a compiler may use on the word of `-march=native`.
_FAMILIES = ("amx", "avx", "bmi", "f16c", "fma", "gfni", "movbe", "sse4", "vaes", "vpclmul")


def instructions() -> set[str]:
    """What this CPU has beyond the base set, in Linux's names."""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("flags"):
            return {f for f in line.partition(":")[2].split() if f.startswith(_FAMILIES)}
    return set()


def description(
    inputs: list[str], precision: str, needs: Collection[str], **facts: int
) -> dict[str, str]:
    """What a file says of itself.

    Args:
        inputs: Names of the model's; the decoder's in the order of the file's arguments.
        precision: Of its convolutions.
        needs: Instructions for which its weights are laid out, in Linux's names.
        facts: `frames`, it knows no position beyond this many; the decoder's `codebooks`, rows of
            codes that it reads, and `history_frames`, that can be heard in a window; the encoder's
            `state_size`, numbers that it carries from chunk to chunk; `samples_per_frame`.
    """
    return {
        **{name: str(number) for name, number in facts.items()},
        "inputs": " ".join(inputs),
        "precision": precision,
        "instructions": " ".join(sorted(needs)),
    }


def unfit(described: Mapping[str, str], inputs: list[str], asked: str) -> str | None:
    """Why a file cannot be used here, or None.

    Args:
        described: As `description` made it.
        inputs: That the model shall take.
        asked: Of `PRECISIONS`, the least exact that is allowed.
    """
    if sorted(described.get("inputs", "").split()) != sorted(inputs):
        return f"it takes {described.get('inputs')!r}, config.pbtxt says {' '.join(inputs)!r}"
    if "samples_per_frame" not in described:
        return "it is of another version: export it again"
    if missing := set(described.get("instructions", "").split()) - instructions():
        return f"it was made for a CPU with {', '.join(sorted(missing))}: export it again here"
    if described.get("precision") not in PRECISIONS[: PRECISIONS.index(asked) + 1]:
        return f"it computes in {described.get('precision')}, and {asked} is asked for"
    return None


def refuse_window(described: Mapping[str, str], codes: np.ndarray, new_frames: np.ndarray) -> None:
    """Keep from the decoder what would make it read beyond its tables: it does not look.

    Raises:
        ValueError: Says what was expected.
    """
    (batch, books, frames), (rows, new) = codes.shape, new_frames.shape
    limit = int(described["frames"])
    if books < int(described["codebooks"]):
        raise ValueError(f"codes has {books} rows, expected {described['codebooks']}.")
    if rows != batch or not 1 <= new <= frames <= limit:
        raise ValueError(
            f"codes is {codes.shape} and new_frames {new_frames.shape}, expected as many rows, "
            f"and at least one new frame among at most {limit}."
        )
    if new_frames.max() >= limit:
        raise ValueError(f"new_frames ends with {new_frames.max()}, expected {limit - 1} at most.")
