"""How a server is reached: tensors to a model and back. Any thread may use a transport."""

from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np
from tritonclient.utils import (
    deserialize_bytes_tensor,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from voicereel.transport.request import Tensors


class Transport(Protocol):
    """A connection to one server. Every timeout is in seconds and for the whole answer.

    All methods but `close` raise the errors of `voicereel.errors`.
    """

    def infer(self, model: str, inputs: Tensors, timeout_s: float) -> Tensors:
        """The answer of a model that gives one."""
        ...

    def stream(self, model: str, inputs: Tensors, timeout_s: float) -> Generator[Tensors]:
        """The answers of a decoupled model as they come; closing the iterator cancels."""
        ...

    def is_ready(self, model: str | None, timeout_s: float) -> bool:
        """Whether the server (None), or this model, is ready."""
        ...

    def close(self) -> None: ...


def raw_bytes(array: np.ndarray) -> bytes:
    """A tensor's values as they go over the wire; object arrays hold the bytes of texts."""
    if array.dtype == np.object_:
        return serialize_byte_tensor(array).item() if array.size else b""
    return np.ascontiguousarray(array).tobytes()


def from_raw(datatype: str, shape: Sequence[int], raw: bytes) -> np.ndarray:
    """The opposite; `datatype` is Triton's name for it."""
    if datatype == "BYTES":
        return deserialize_bytes_tensor(raw).reshape(shape)
    return np.frombuffer(raw, triton_to_np_dtype(datatype)).reshape(shape)
