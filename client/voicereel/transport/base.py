"""The interface of a transport, and the encoding of tensors on the wire."""

import math
import struct
from collections.abc import Generator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from tritonclient.utils import (
    deserialize_bytes_tensor,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from voicereel.errors import ServerError

Tensors: TypeAlias = dict[str, np.ndarray]  # by name, each with its batch axis of 1

# The longest answer there is: 32,768 frames of 2048 samples of 4 bytes, 25 minutes; and its header.
MAX_RESPONSE_BYTES = 32_768 * 2048 * 4 + 2**20


class Transport(Protocol):
    """A connection to one server; may be shared by threads.

    Timeouts are in seconds and for the whole response. All methods but `close` raise the errors of
    `voicereel.errors`, and `NoConnection`.
    """

    def infer(self, model: str, inputs: Tensors, timeout_s: float, request_id: str) -> Tensors:
        """Call a model that gives one response."""
        ...

    def stream(
        self, model: str, inputs: Tensors, timeout_s: float, request_id: str
    ) -> Generator[Tensors]:
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


def answered(name: Any, datatype: Any, shape: Any, raw: bytes) -> np.ndarray:
    """Decode a tensor of a response, which may be anything.

    Raises:
        ServerError: If type, shape and bytes do not fit together.
    """
    what = f"the response's {str(name)[:40]!r} is {str(datatype)[:20]} {str(list(shape))[:60]}"
    kind = np.object_ if datatype == "BYTES" else triton_to_np_dtype(datatype)
    if kind is None or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ServerError(f"{what}, expected a tensor of Triton with a shape of counts")
    expected = math.prod(shape) * (4 if kind is np.object_ else np.dtype(kind).itemsize)
    if len(raw) < expected or (kind is not np.object_ and len(raw) > expected):
        raise ServerError(f"{what}, with {len(raw)} bytes, expected {expected}")
    try:
        return from_raw(datatype, shape, raw)
    except (ValueError, struct.error):
        raise ServerError(f"{what}, and its {len(raw)} bytes are no such tensor") from None
