"""The interface of a transport, and the encoding of tensors on the wire."""

from collections.abc import Generator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from tritonclient.utils import (
    deserialize_bytes_tensor,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

Tensors: TypeAlias = dict[str, np.ndarray]  # by name, each with its batch axis of 1


class Transport(Protocol):
    """A connection to one server; may be shared by threads.

    Timeouts are in seconds and for the whole response. All methods but `close` raise the errors of
    `voicereel.errors`.
    """

    def infer(self, model: str, inputs: Tensors, timeout_s: float) -> Tensors:
        """Call a model that gives one response."""
        ...

    def stream(self, model: str, inputs: Tensors, timeout_s: float) -> Generator[Tensors]:
        """Call a decoupled model and yield its responses; closing the iterator cancels."""
        ...

    def is_ready(self, model: str | None, timeout_s: float) -> bool:
        """Whether a model, or the server as a whole (None), is ready."""
        ...

    def close(self) -> None: ...


def raw_bytes(array: np.ndarray) -> bytes:
    """Encode a tensor's values for the wire; object arrays hold texts as bytes."""
    if array.dtype == np.object_:
        return serialize_byte_tensor(array).item() if array.size else b""
    return np.ascontiguousarray(array).tobytes()


def from_raw(datatype: str, shape: Sequence[int], raw: bytes) -> np.ndarray:
    """Decode a tensor; `datatype` is Triton's name of its type, such as FP32 or BYTES."""
    if datatype == "BYTES":
        return deserialize_bytes_tensor(raw).reshape(shape)
    return np.frombuffer(raw, triton_to_np_dtype(datatype)).reshape(shape)
