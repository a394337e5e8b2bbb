"""What both protocols do with a request for a model before it goes on."""

import asyncio
import math
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ensemble.contract.parameters import CANCEL_TOKEN, TIMEOUT
from proxy import json_body, protobuf
from proxy.account import Metrics
from proxy.doors import Doors
from proxy.load import Asked, Load, group_of, units_of
from proxy.packed import message_content, unpacked
from proxy.refusals import Refusal, invalid
from proxy.server import Server
from proxy.settings import Settings
from proxy.tensors import Input, check

T = TypeVar("T")
IN_THREAD = 2**18  # bytes from which looking at a request would hold up others
WARNING = "x-voicereel-warning"  # a header of the answer over HTTP, trailing metadata over gRPC
_NO_RATE = (
    "reference_sample_rate is left out, so reference_audio was taken for the checkpoint's rate; "
    "recorded at another rate it gives another voice: state it"
)


@dataclass
class Proxy:
    """What all requests share."""

    settings: Settings
    doors: Doors
    load: Load
    server: Server
    metrics: Metrics

    def admit(self, ask: "Ask", left_s: float | None = None) -> Asked:
        """Count a request that has been read as in flight; `Load.admit`, unless a stop has begun.

        Args:
            ask: The request.
            left_s: Seconds until its caller gives up, beside its own limit; None: unknown.

        Raises:
            Refusal: If it cannot be answered, or would wait too long.
        """
        self.server.require()  # which may have changed while it was read
        return self.load.admit(ask.model, ask.units, shorter(left_s, ask.timeout_s))


@dataclass(frozen=True)
class Ask:
    """A request that was looked at.

    Attributes:
        model: Asked.
        id: The caller's name for it, or "".
        content: To be sent on.
        header_bytes: Of the JSON in `content`, where values follow it; None: none do.
        token: Takes it back, or "".
        units: Its size, for `Load`.
        timeout_s: Its own limit, or None.
        warning: What its caller should know, or "".
    """

    model: str
    id: str
    content: bytes
    header_bytes: int | None
    token: str
    units: float
    timeout_s: float | None
    warning: str


async def elsewhere(work: Callable[..., T], size: int, *arguments: Any) -> T:
    """Run `work(*arguments)`; of a large request in a thread, so that others go on."""
    if size < IN_THREAD:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def look_at_message(proxy: Proxy, message: bytes, headers: Mapping[str, Any]) -> Ask:
    """A ModelInferRequest of gRPC.

    Raises:
        Refusal: If the server should not see it.
    """
    content = message_content(message, proxy.settings.max_body)
    request = protobuf.parsed(content)
    try:
        return _looked_at(proxy, content, request, headers)
    except Refusal as refusal:
        refusal.id, refusal.model = request.id, request.model_name
        raise


def _looked_at(proxy: Proxy, content: bytes, request: Any, headers: Mapping[str, Any]) -> Ask:
    model = request.model_name
    proxy.doors.model(model, headers)
    inputs, shared = protobuf.inputs_of(request), proxy.doors.is_open("shared-memory", headers)
    _check(model, inputs, protobuf.shares_outputs(request), shared)
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
        for name, value in request.parameters.items()
        if name in (TIMEOUT, CANCEL_TOKEN)
    }
    token, timeout_s = _token(parameters), _timeout_s(model, parameters)
    if not token and group_of(model) == "speech":
        token = uuid.uuid4().hex
        content = protobuf.with_parameter(content, CANCEL_TOKEN, token)
    units = units_of(model, _text_bytes(inputs), len(content))
    warning = _warning({each.name for each in inputs})
    return Ask(model, request.id, content, None, token, units, timeout_s, warning)


def look_at_body(
    proxy: Proxy, model: str, how: str, body: bytes, headers: Mapping[str, str]
) -> Ask:
    """The body of an HTTP request.

    Args:
        proxy: What is shared.
        model: Of the path.
        how: infer, generate or generate_stream.
        body: As it was sent.
        headers: Of HTTP, names in small letters.

    Raises:
        Refusal: If the server should not see it.
    """
    content = unpacked(body, headers.get("content-encoding", ""), proxy.settings.max_body)
    length = _header_length(headers.get("inference-header-content-length"), len(content))
    text = content if length is None else content[:length]
    flat = how != "infer"
    looked = json_body.read(text, 1 if flat else 3)
    fields = looked.fields
    parameters: Any = fields if flat else fields.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise invalid(model, "parameters is no object.", "malformed")
    if flat:
        json_body.check_generate(model, fields)
        text_bytes = json_body.text_bytes(fields.get("text"))
        names = fields.keys()
    else:
        inputs = json_body.inputs_of(model, fields, memoryview(content)[len(text) :])
        shared = proxy.doors.is_open("shared-memory", headers)
        _check(model, inputs, json_body.shares_outputs(model, fields), shared)
        text_bytes = _text_bytes(inputs) or json_body.text_bytes(
            next((i.get("data") for i in fields.get("inputs", []) if i["name"] == "text"), None)
        )
        names = {each.name for each in inputs}
    token, timeout_s = _token(parameters), _timeout_s(model, parameters)
    if not token and group_of(model) == "speech":
        token = uuid.uuid4().hex
        longer = json_body.with_parameter(looked, CANCEL_TOKEN, token, flat)
        content = longer + content[len(text) :]
        length = None if length is None else len(longer)
    name = fields.get("id")
    units = units_of(model, text_bytes, len(content))
    return Ask(model, name if isinstance(name, str) else "", content, length, token, units,
               timeout_s, _warning(names))  # fmt: skip


def _check(model: str, inputs: list[Input], shares_outputs: bool, shared: bool) -> None:
    if shares_outputs and not shared:
        raise invalid(
            model, "an output is to go to shared memory, which is closed. Leave that out, or "
            "start the proxy with --open shared-memory.", "shared_memory",
        )  # fmt: skip
    check(model, inputs, shared)


def _warning(names: Collection[str]) -> str:
    has_rate = "reference_audio" not in names or "reference_sample_rate" in names
    return "" if has_rate else _NO_RATE


def _header_length(text: str | None, size: int) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= size):
        raise invalid(
            "proxy",
            f"Inference-Header-Content-Length is {text[:32]!r}, but the body has {size} bytes.",
            "size",
        )
    return int(text)


def _token(parameters: Mapping[str, Any]) -> str:
    token = parameters.get(CANCEL_TOKEN)
    return token if isinstance(token, str) else ""


def _timeout_s(model: str, parameters: Mapping[str, Any]) -> float | None:
    asked = parameters.get(TIMEOUT)
    if asked is None:
        return None
    if type(asked) is not int or not 0 <= asked < 2**63:
        raise invalid(
            model, f"timeout is {str(asked)[:32]!r}, expected whole microseconds from 0.", "timeout"
        )
    return asked / 1e6 if asked else None


def _text_bytes(inputs: list[Input]) -> int:
    return sum(len(each.raw or b"") for each in inputs if each.name == "text")


def shorter(one: float | None, other: float | None) -> float | None:
    """The shorter of two limits, None for none."""
    found = min(math.inf if one is None else one, math.inf if other is None else other)
    return None if found == math.inf else found
