"""The rules that every input tensor keeps before it reaches the server.

Triton checks less: an even number of negative axes passes it and ends a model's process, and a
batch of 0 is never answered (Triton 24.10). Names, dtypes and dims are those of
`ensemble.contract.tensors`; a model that is not there is held to the general rules only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.contract.tensors import ANY, FRONT_DOORS, MODELS, Tensor
from proxy.refusals import Refusal, invalid

SIZES = {  # bytes of an element
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2,
    "INT32": 4, "INT64": 8, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip
MOST_AXES = 8
MOST_TEXTS = 65_536  # elements of a BYTES tensor, each of which is looked at
MOST_INPUTS = 64  # the widest model has 15
# Models that are not parts of others: callers use them, and each gives one request's work.
OPEN_MODELS = (*FRONT_DOORS, "fish_cancel", "fish_checkpoint")


@dataclass(frozen=True)
class Input:
    """One input of a request, as far as it is looked at.

    Attributes:
        name, dtype: As the caller wrote them.
        shape: Whole numbers of any size and sign.
        raw: The bytes that were sent; None if values came in another way.
        count: Values that came one by one; None if they came as bytes.
        shared: Whether the values lie in shared memory.
    """

    name: str
    dtype: str
    shape: Sequence[int]
    raw: bytes | memoryview | None = None
    count: int | None = None
    shared: bool = False


def check(model: str, inputs: Sequence[Input], shared_memory: bool = False) -> None:
    """Hold a request's inputs to the rules.

    Args:
        model: The model that is asked.
        inputs: Of the request.
        shared_memory: Whether values may lie in shared memory.

    Raises:
        Refusal: Names the input, what it has and what is expected.
    """
    if len(inputs) > MOST_INPUTS:
        raise invalid(model, f"{len(inputs)} inputs, expected {MOST_INPUTS} at most.")
    names = [i.name for i in inputs]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise invalid(model, f"input {_quoted(twice)} came twice, expected it once.")
    for each in inputs:
        if each.shared and not shared_memory:
            raise invalid(
                model,
                f"{_quoted(each.name)} lies in shared memory, which is closed. Send its values "
                "with the request, or start the proxy with --open shared-memory.",
                "shared_memory",
            )
        _check_shape(model, each)
    _check_contract(model, inputs)
    for each in inputs:
        if not each.shared:
            _check_values(model, each)


def _check_shape(model: str, each: Input) -> None:
    name, shape = _quoted(each.name), each.shape
    if len(shape) > MOST_AXES:
        raise invalid(
            model, f"{name} has {len(shape)} axes, expected {MOST_AXES} at most.", "shape"
        )
    if any(axis < 0 or axis >= 2**31 for axis in shape):
        raise invalid(
            model,
            f"{name} has shape {_written(shape)}, expected axes from 0 to 2147483647.",
            "shape",
        )
    if each.dtype != "BYTES" and each.dtype not in SIZES:
        known = ", ".join(("BYTES", *SIZES))
        raise invalid(
            model, f"{name} has datatype {_quoted(each.dtype)}, expected one of {known}.", "dtype"
        )


def _check_contract(model: str, inputs: Sequence[Input]) -> None:
    """Names, dtypes and dims, for the models that the contract knows."""
    if (signature := MODELS.get(model)) is None:
        return
    known, given = {t.name: t for t in signature.inputs}, {i.name for i in inputs}
    for each in inputs:
        if each.name not in known:
            told = f"expected {', '.join(known)}" if known else "it takes none"
            raise invalid(model, f"there is no input {_quoted(each.name)}, {told}.", "name")
        _check_tensor(model, each, known[each.name])
    if missing := [t.name for t in signature.inputs if not t.optional and t.name not in given]:
        raise invalid(model, f"input {missing[0]} is missing.", "name")
    if len({each.shape[0] for each in inputs}) > 1:
        raise invalid(model, "inputs differ in their first axis, the batch.", "shape")


def _check_tensor(model: str, each: Input, asked: Tensor) -> None:
    if each.dtype != asked.dtype:
        raise invalid(model, f"{each.name} is {each.dtype}, expected {asked.dtype}.", "dtype")
    shape = each.shape
    fits = len(shape) == 1 + len(asked.dims) and shape[0] >= 1
    if model in OPEN_MODELS:  # the others' batches are bounded by Triton
        fits = fits and shape[0] == 1
    for axis, dim in zip(shape[1:], asked.dims, strict=False):
        # A voice of 0 frames is none. What cannot be left out cannot be empty either.
        fits = fits and (axis >= (not asked.optional) if dim == ANY else axis == dim)
    if not fits:
        dims = ", ".join("any" if dim == ANY else str(dim) for dim in asked.dims)
        batch = 1 if model in OPEN_MODELS else "batch"
        least = "" if asked.optional else " and no axis 0"
        raise invalid(
            model, f"{each.name} has shape {_written(shape)}, expected [{batch}, {dims}]{least}.",
            "shape",
        )  # fmt: skip


def _check_values(model: str, each: Input) -> None:
    """As many values came as the shape has."""
    name, expected = _quoted(each.name), math.prod(each.shape)
    if each.raw is None:
        if each.count is not None and each.count != expected:
            raise _size(model, f"{name} has {each.count} values, its shape {expected}.")
    elif each.dtype == "BYTES":
        _check_texts(model, name, each.raw, expected)
    elif len(each.raw) != expected * SIZES[each.dtype]:
        needed = expected * SIZES[each.dtype]
        raise _size(
            model,
            f"{name} came with {len(each.raw)} bytes, but {each.dtype} of shape "
            f"{_written(each.shape)} has {needed}.",
        )


def _check_texts(model: str, name: str, raw: bytes | memoryview, expected: int) -> None:
    """Each text is its length, 4 bytes little endian, and so many bytes."""
    if expected > MOST_TEXTS:
        raise _size(model, f"{name} has {expected} texts, expected {MOST_TEXTS} at most.")
    at = found = 0
    while at + 4 <= len(raw) and found < expected:
        at += 4 + int.from_bytes(raw[at : at + 4], "little")
        found += 1
    if at != len(raw) or found != expected:
        raise _size(
            model,
            f"the lengths inside {name} do not fit: {len(raw)} bytes, shape of {expected} texts. "
            "Each text is its length in 4 bytes, little endian, and then its bytes.",
        )


def _size(model: str, message: str) -> Refusal:
    return invalid(model, message, "size")


def _written(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(axis) for axis in shape) + "]"


def _quoted(name: str) -> str:
    """A caller's name, not too long for a message or a log."""
    return repr(name if len(name) <= 64 else name[:61] + "...")
