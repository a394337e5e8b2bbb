"""Looks at a gRPC request: bounded, before a parser makes objects of it."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from proxy.refusals import Refusal, invalid
from proxy.tensors import MOST_AXES, Input

pb: Any = service_pb2  # its classes are created at import, so type checkers do not see them
MOST_FIELDS = 8192  # of one request, all levels together; each becomes an object in a parser
MOST_NUMBERS = 8 * 2**20  # bytes of integers one by one: each of 1 byte becomes 8 in a parser
_INPUTS, _OUTPUTS, _PARAMETERS = 5, 6, 4  # of ModelInferRequest
_SHAPE, _CONTENTS = 3, 5  # of InferInputTensor
_FLOATS = 6  # of InferTensorContents: from here on values do not grow in a parser
# Which of InferTensorContents a dtype's values are in.
_FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def parsed(message: bytes, kind: str = "ModelInferRequest") -> Any:
    """Parse a request that has not too many fields.

    Raises:
        Refusal: If it is no such message, or has more fields than a request needs.
    """
    try:
        _Walk().over(memoryview(message))
        return getattr(pb, kind).FromString(message)
    except (DecodeError, IndexError):
        raise invalid("proxy", f"the message is no {kind}.", "malformed") from None


class _Walk:
    """Counts the fields of a request and of what it holds."""

    def __init__(self) -> None:
        self._left = MOST_FIELDS

    def over(self, message: memoryview) -> None:
        for number, part in self._fields(message):
            if part is not None and number in (_INPUTS, _OUTPUTS):
                self._over_tensor(part)
            elif part is not None and number == _PARAMETERS:
                self._over_all(part)

    def _over_tensor(self, message: memoryview) -> None:
        for number, part in self._fields(message):
            if part is None:
                continue
            if number == _SHAPE and len(part) > 10 * MOST_AXES:  # 10: bytes of the longest number
                raise invalid("proxy", f"a shape has more than {MOST_AXES} axes.", "shape")
            if number == _PARAMETERS:
                self._over_all(part)
            elif number == _CONTENTS:
                for kind, numbers in self._fields(part):
                    if numbers is not None and kind < _FLOATS and len(numbers) > MOST_NUMBERS:
                        raise invalid(
                            "proxy",
                            f"{len(numbers)} bytes of numbers one by one, expected {MOST_NUMBERS} "
                            "at most. Send them in raw_input_contents.",
                            "size",
                        )

    def _over_all(self, message: memoryview) -> None:
        for _ in self._fields(message):
            pass

    def _fields(self, message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
        """Number of each field, and its bytes if it has a length."""
        at, end = 0, len(message)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise invalid("proxy", f"a request has more than {MOST_FIELDS} fields.", "fields")
            tag, at = _number(message, at)
            number, kind = tag >> 3, tag & 7
            part = None
            if kind == 2:
                length, at = _number(message, at)
                part, at = message[at : at + length], at + length
            elif kind == 0:
                _, at = _number(message, at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            else:
                raise DecodeError
            if at > end:
                raise DecodeError
            yield number, part


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise DecodeError


def inputs_of(request: Any) -> list[Input]:
    """The inputs of a parsed ModelInferRequest, for `proxy.tensors.check`.

    Raises:
        Refusal: If values and inputs do not go together.
    """
    raws = list(request.raw_input_contents)
    own = [each for each in request.inputs if not _is_shared(each)]
    if raws and len(raws) != len(own):
        raise invalid(
            request.model_name,
            f"{len(raws)} raw_input_contents, expected {len(own)}: one for each input.",
            "size",
        )
    found, values = [], iter(raws)
    for each in request.inputs:
        shape, shared = list(each.shape), _is_shared(each)
        raw = next(values) if raws and not shared else None
        if raw is not None and each.HasField("contents"):
            raise invalid(request.model_name, f"{each.name[:64]!r} has its values twice.", "size")
        count = None if shared or raw is not None else _count(each)
        found.append(Input(each.name, each.datatype, shape, raw, count, shared))
    return found


def _count(tensor: Any) -> int:
    field = _FIELDS.get(tensor.datatype)
    return len(getattr(tensor.contents, field)) if field else 0


def _is_shared(tensor: Any) -> bool:
    return any(name.startswith("shared_memory") for name in tensor.parameters)


def shares_outputs(request: Any) -> bool:
    """Whether an answer is to be put into shared memory."""
    return any(_is_shared(each) for each in request.outputs)


def with_parameter(message: bytes, name: str, text: str) -> bytes:
    """A request with one more parameter: messages of protobuf are merged by joining them."""
    more = pb.ModelInferRequest()
    more.parameters[name].string_param = text
    return message + more.SerializeToString()


def stream_error(refusal: Refusal, request_id: str) -> bytes:
    """What says in a stream that one of its requests has failed, as Triton says it."""
    answer = pb.ModelStreamInferResponse(error_message=str(refusal))
    answer.infer_response.id = request_id
    return answer.SerializeToString()
