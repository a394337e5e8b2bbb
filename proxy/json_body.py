"""Looks at the JSON of an HTTP request: depth, names and sizes, without decoding its numbers.

tritonserver's parser goes down by recursion and dies of 3,000,000 levels (Triton 24.10).
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.contract.tensors import MODELS
from proxy.refusals import Refusal, invalid
from proxy.tensors import Input

MOST_LEVELS = 64  # a tensor has 8 axes, inside 4 levels of the request
MOST_FIELDS_BYTES = 2**20  # of JSON that is decoded: all but long arrays of values
MOST_ARRAYS = 1024  # long ones
MOST_BRACKETS = 65_536  # of all kinds, those in texts too
_LONG = 256  # bytes of an array that is not decoded
_OPEN, _CLOSE, _QUOTE, _COMMA = ord("["), ord("]"), ord('"'), ord(",")
_LOWER = 0xDF  # of `{` and `}` makes `[` and `]`
_PARAMETERS = re.compile(rb'"parameters"\s*:\s*$')
_COUNT = "values left out"  # the key of what stands for a long array
Found = dict[str, Any]


@dataclass(frozen=True)
class Fields:
    """A JSON object, looked at.

    Attributes:
        fields: Decoded; a long array is `{_COUNT: number of its values}`.
        content: The JSON itself.
        parameters_at: Where the members of its `parameters` begin in `content`; None: it has none.
    """

    fields: Found
    content: bytes
    parameters_at: int | None


def read(content: bytes, arrays_at: int) -> Fields:
    """Look at a JSON object.

    Args:
        content: UTF-8.
        arrays_at: Levels outside of the arrays that are left alone: 3 in infer's
            `{"inputs": [{"data": [...]}]}`, 1 in generate's `{"text": [...]}`.

    Raises:
        Refusal: If it is none, is nested too deep, has a key twice or too much beside values.
    """
    if (content.count(b"[") + content.count(b"{")) > MOST_BRACKETS:
        brackets = f"JSON has more than {MOST_BRACKETS} arrays and objects, or is nested so deep"
        raise invalid("proxy", f"{brackets}; {MOST_LEVELS} levels are allowed.", "depth")
    at, levels, text = _brackets(content)
    if len(levels) and levels.max() > MOST_LEVELS:
        raise invalid("proxy", f"JSON is nested deeper than {MOST_LEVELS} levels.", "depth")
    decoded = _decoded(_shortened(content, text, at, levels, arrays_at + 1))
    if not isinstance(decoded, dict):
        raise invalid("proxy", "the body is no JSON object.", "malformed")
    return Fields(decoded, content, _parameters_at(content, at, levels))


def _brackets(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where brackets outside of strings are, the level each leads to, and all such bytes.

    A closing bracket has the level that it ends. Bytes inside of strings are 0.
    """
    plain = content
    if b"\\" in content:  # no escaped quote may look like a string's end
        plain = content.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    text = np.frombuffer(plain, np.uint8)
    inside = np.bitwise_xor.accumulate((text == _QUOTE).view(np.uint8))
    text = text * (inside ^ 1)
    folded = text & _LOWER
    opens = folded == _OPEN
    at = np.flatnonzero(opens | (folded == _CLOSE))
    opening = opens[at]
    levels = np.cumsum(np.where(opening, 1, -1), dtype=np.int64) + ~opening  # of a close: its own
    return at, levels, text


def _shortened(
    content: bytes, text: np.ndarray, at: np.ndarray, levels: np.ndarray, level: int
) -> bytes:
    """The JSON with a count in the place of each long array of a level."""
    edges = at[levels == level]
    starts, ends = edges[0::2], edges[1::2]
    if len(starts) != len(ends):
        raise _malformed("brackets do not match")
    chosen = np.flatnonzero((ends - starts > _LONG) & (text[starts] == _OPEN))
    if len(chosen) > MOST_ARRAYS:
        raise invalid("proxy", f"JSON has more than {MOST_ARRAYS} arrays.", "fields")
    parts, done = [], 0
    for start, end in zip(starts[chosen].tolist(), ends[chosen].tolist(), strict=True):
        values = 1 + int(np.count_nonzero(text[start:end] == _COMMA))
        parts += [content[done:start], f'{{"{_COUNT}": {values}}}'.encode()]
        done = end + 1
    short = b"".join([*parts, content[done:]])
    if len(short) > MOST_FIELDS_BYTES:
        raise invalid(
            "proxy", f"JSON has more than {MOST_FIELDS_BYTES // 2**20} MiB beside arrays.", "fields"
        )
    return short


def _decoded(content: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> Found:
        found = dict(pairs)
        if len(found) != len(pairs):  # parsers differ in which of them counts
            raise _malformed("a key comes twice in one object")
        return found

    try:
        return json.loads(content.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as problem:
        raise _malformed(str(problem)[:200]) from None


def _parameters_at(content: bytes, at: np.ndarray, levels: np.ndarray) -> int | None:
    """Where the members of the object `parameters` of the outermost object begin."""
    for start in at[levels == 2][0::2][:MOST_ARRAYS].tolist():
        if content[start] == ord("{") and _PARAMETERS.search(content[max(0, start - 64) : start]):
            return start + 1
    return None


def _malformed(why: str) -> Refusal:
    return invalid("proxy", f"the body is no JSON that the server takes: {why}.", "malformed")


def inputs_of(model: str, fields: Found, values: memoryview) -> list[Input]:
    """The inputs of a request for infer, for `proxy.tensors.check`.

    Args:
        model: Its name.
        fields: Decoded by `read`.
        values: What follows the JSON.

    Raises:
        Refusal: If the request is not built as Triton's protocol says.
    """
    inputs = fields.get("inputs", [])
    if not isinstance(inputs, list):
        raise invalid(model, "inputs is no array.", "malformed")
    found, start = [], 0
    for each in inputs:
        shape = each.get("shape") if isinstance(each, dict) else None
        if not isinstance(shape, list) or any(type(axis) is not int for axis in shape):
            raise invalid(model, "an input has no shape of whole numbers.", "shape")
        name, dtype, parameters = (each.get(k) for k in ("name", "datatype", "parameters"))
        parameters = {} if parameters is None else parameters
        if not (isinstance(name, str) and isinstance(dtype, str) and isinstance(parameters, dict)):
            raise invalid(model, "an input lacks its name, datatype or parameters.", "malformed")
        shared, size = _is_shared(parameters), parameters.get("binary_data_size")
        if size is None or shared:
            count = None if shared else _count(model, name, each.get("data"))
            found.append(Input(name, dtype, shape, None, count, shared))
            continue
        if type(size) is not int or not 0 <= size <= len(values) - start or "data" in each:
            raise invalid(
                model, f"{name[:64]!r}: binary_data_size is {str(size)[:32]}, but "
                f"{len(values) - start} bytes follow for it.", "size",
            )  # fmt: skip
        found.append(Input(name, dtype, shape, values[start : start + size]))
        start += size
    if start != len(values):
        raise invalid(model, f"{len(values) - start} bytes follow that no input names.", "size")
    return found


def shares_outputs(model: str, fields: Found) -> bool:
    """Whether an answer is to be put into shared memory.

    Raises:
        Refusal: If the request is not built as Triton's protocol says.
    """
    outputs = fields.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise invalid(model, "outputs is no array of objects.", "malformed")
    return any(_is_shared(each.get("parameters") or {}) for each in outputs)


def _is_shared(parameters: Any) -> bool:
    return isinstance(parameters, dict) and any(n.startswith("shared_memory") for n in parameters)


def _count(model: str, name: str, data: Any) -> int:
    """How many values an input's `data` has."""
    if isinstance(data, dict) and _COUNT in data:
        return data[_COUNT]
    if not isinstance(data, list):
        raise invalid(model, f"{name[:64]!r} has no data.", "size")
    return sum(_count(model, name, each) if isinstance(each, list) else 1 for each in data)


def with_parameter(looked: Fields, name: str, text: str, flat: bool) -> bytes:
    """The JSON with one more request parameter.

    Args:
        looked: The JSON.
        name: Of the parameter.
        text: Its value.
        flat: Whether parameters are members of the object itself, as in generate.
    """
    if "parameters" in looked.fields and looked.parameters_at is None and not flat:
        return looked.content  # written in a way that nobody's client writes it
    content, member = looked.content, f'"{name}":"{text}"'.encode()
    if flat or looked.parameters_at is None:
        at, has_more = content.index(b"{") + 1, bool(looked.fields)
        member = member if flat else b'"parameters":{' + member + b"}"
    else:
        at, has_more = looked.parameters_at, bool(looked.fields["parameters"])
    return content[:at] + member + b"," * has_more + content[at:]


def check_generate(model: str, fields: Found) -> None:
    """Refuse values of generate that would become a tensor of 0 elements, as nobody answers it.

    Raises:
        Refusal: Names the field.
    """
    signature = MODELS.get(model)
    needed = {t.name for t in signature.inputs if not t.optional} if signature else set()
    for name, value in fields.items():
        if name in needed and value in ([], {}):
            raise invalid(model, f"{name} is empty, expected at least one value.", "shape")


def text_bytes(value: Any) -> int:
    """Bytes of a text, or of those in a list."""
    if isinstance(value, list):
        return sum(text_bytes(each) for each in value)
    return len(value.encode("utf-8", "replace")) if isinstance(value, str) else 0
