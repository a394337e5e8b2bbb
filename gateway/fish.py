"""Fish Audio's protocol, for users who leave the cloud: `/v1/tts`, `/v1/tts/live`, references.

Its apps send JSON, msgpack or a form; errors are `status` and `message`.
"""

import asyncio
from typing import Annotated, Any, Literal

import msgpack
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.answers import Flow, answer
from gateway.doors import caller_of
from gateway.errors import ApiError, invalid
from gateway.fields import Words, checked, checked_words, json_body, options_of, recording_bytes
from gateway.settings import DEFAULT_VOICE, Settings
from gateway.sound import Shape, Track
from gateway.speech import MAX_REFERENCES, MODEL, Ask, shape_of, text_of
from gateway.voice_doors import file_of, form_of
from voicereel.audio import CODEC_SAMPLE_RATE_HZ
from voicereel.options import OPTIONS

# Fields that steer Fish's own servers and have no counterpart here; an answer names those sent.
_NO_EFFECT = (
    "chunk_length", "latency", "normalize", "min_chunk_length", "condition_on_previous_chunks",
    "early_stop_threshold", "use_memory_cache", "iterations",
)  # fmt: skip
_CONSENT = "not stated: Fish's protocol does not ask"


class Prosody(BaseModel):
    """Tempo, and volume in dB."""

    model_config = ConfigDict(extra="forbid")
    speed: Annotated[float, Field(ge=0.5, le=2.0)] = 1.0
    volume: Annotated[float, Field(ge=-20, le=20)] = 0.0


class Reference(BaseModel):
    """A recording, as bytes or base64, and its words."""

    model_config = ConfigDict(extra="forbid")
    audio: bytes | StrictStr
    text: Words


class Body(BaseModel):
    """The fields of `POST /v1/tts`, but the options of the model."""

    model_config = ConfigDict(extra="forbid")
    text: StrictStr
    format: Literal["wav", "pcm", "mp3", "opus"] = "mp3"
    sample_rate: int = 0
    mp3_bitrate: Literal[64, 128, 192] = 128
    opus_bitrate: Literal[-1000, 24, 32, 48, 64] = 32
    reference_id: StrictStr = DEFAULT_VOICE
    references: Annotated[list[Reference], Field(max_length=MAX_REFERENCES)] = Field(
        default_factory=list
    )
    prosody: Prosody = Field(default_factory=Prosody)
    streaming: bool = True


def fish_ask(body: dict[str, Any], settings: Settings, *, whole: bool = False) -> Ask:
    """Check the fields of a request; `text` may be empty.

    Raises:
        ApiError: 422, for the first field that is wrong.
    """
    body = {name: value for name, value in body.items() if value is not None}
    ignored = tuple(name for name in _NO_EFFECT if body.pop(name, None) is not None)
    if body.get("max_new_tokens") == 0:  # "no limit"
        del body["max_new_tokens"]
    options = options_of(body)
    fields = checked(Body, body, extra=", ".join([*OPTIONS, *_NO_EFFECT]))
    text_of(fields.text, "text", settings)
    return Ask(
        MODEL, fields.text, fields.reference_id, _recordings(fields.references),
        _shape(fields, whole), False, "en", options, ignored=ignored,
    )  # fmt: skip


def _recordings(references: list[Reference]) -> tuple[tuple[bytes, str], ...]:
    return tuple(
        (each.audio if isinstance(each.audio, bytes)
         else recording_bytes(each.audio, f"references.{index}.audio"), each.text)
        for index, each in enumerate(references)
    )  # fmt: skip


def _shape(fields: Body, whole: bool) -> Shape:
    rate_hz = fields.sample_rate or (CODEC_SAMPLE_RATE_HZ if fields.format in ("wav", "pcm") else 0)
    shape = shape_of(fields.format, rate_hz, fields.prosody.speed, whole)
    # -1000 lets Fish's server choose.
    kbps = {"mp3": fields.mp3_bitrate, "opus": max(fields.opus_bitrate, 0)}.get(fields.format, 0)
    gain = 10 ** (fields.prosody.volume / 20)
    return Shape(shape.format, shape.rate_hz, shape.speed, whole, kbps, gain)


def unpacked(data: bytes) -> dict[str, Any]:
    """A msgpack object.

    Raises:
        ApiError: 400, if it is none.
    """
    try:
        found = msgpack.unpackb(data)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ApiError(400, f"the body is no msgpack: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ApiError(400, "the body is no msgpack object")
    return found


async def tts(request: Request) -> Response:
    """`POST /v1/tts`."""
    gateway = request.state.gateway
    body = await _body(request)
    checked_words(body.get("text"), "text")
    cannot_stream = request.scope["http_version"] == "1.0"
    ask = fish_ask(body, gateway.settings, whole=cannot_stream)
    caller, track = caller_of(request), Track(ask.shape)

    def flow() -> Flow:
        account = gateway.account(caller, "fish", MODEL, ask.shape.format)
        pieces = gateway.streams.open(caller, lambda: gateway.speak(ask, track))
        return Flow(pieces, track, account)

    answered = await answer(request, caller, flow, sse=False, ends=lambda _: {})
    if ask.ignored:
        answered.headers["X-Ignored-Fields"] = ", ".join(ask.ignored)
    return answered


async def _body(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind in ("application/msgpack", "application/x-msgpack"):
        return unpacked(await request.body())
    if kind == "multipart/form-data":
        return await _form_body(request)
    return json_body(await request.body())


async def _form_body(request: Request) -> dict[str, Any]:
    """A form: fields as text; files `reference_audio`, each with a `reference_text`."""
    form = await form_of(request)
    try:
        audios = [await each.read() for each in form.getlist("reference_audio")
                  if not isinstance(each, str)]  # fmt: skip
        texts = [each for each in form.getlist("reference_text") if isinstance(each, str)]
        if len(audios) != len(texts):
            raise invalid("reference_text", f"came {len(texts)} times for {len(audios)} recordings")
        body: dict[str, Any] = {
            name: _number(name, value) for name, value in form.items()
            if isinstance(value, str) and name not in ("reference_audio", "reference_text")
        }  # fmt: skip
        pairs = zip(audios, texts, strict=True)
        return body | {"references": [{"audio": audio, "text": text} for audio, text in pairs]}
    finally:
        await form.close()


def _number(name: str, value: str) -> Any:
    """A field of a form, which has no types: options are numbers."""
    if name not in OPTIONS and name not in ("mp3_bitrate", "opus_bitrate"):
        return value
    try:
        return float(value) if name in OPTIONS and OPTIONS[name].is_float else int(value)
    except ValueError:
        return value  # which the check refuses, and names


async def references_add(request: Request) -> Response:
    """`POST /v1/references/add`: id, audio, text."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind == "multipart/form-data":
        form = await form_of(request)
        try:
            body: dict[str, Any] = dict(form) | {"audio": await file_of(form, "audio")}
        finally:
            await form.close()
    else:
        body = await _body(request)
    name, text = checked_words(body.get("id"), "id"), checked_words(body.get("text"), "text")
    audio = body.get("audio", "")
    recording = audio if isinstance(audio, bytes) else recording_bytes(str(audio), "audio")
    store = request.state.gateway.store
    kept = await asyncio.to_thread(store.add, name, recording, text, _CONSENT)
    return _reference("added", kept.name)


async def references_list(request: Request) -> Response:
    """`GET /v1/references/list`."""
    kept = await asyncio.to_thread(request.state.gateway.store.all)
    names = [voice.name for voice in kept]
    return JSONResponse({"success": True, "reference_ids": names, "message": f"{len(names)}"})


async def references_delete(request: Request) -> Response:
    """`DELETE /v1/references/delete`: reference_id."""
    name = checked_words((await _body(request)).get("reference_id"), "reference_id")
    kept = await asyncio.to_thread(request.state.gateway.store.remove, name)
    return _reference("deleted", kept.name)


async def references_update(request: Request) -> Response:
    """`PUT` or `POST /v1/references/update`: old_reference_id, new_reference_id."""
    body = await _body(request)
    old, new = (checked_words(body.get(f"{n}_reference_id"), f"{n}_reference_id")
                for n in ("old", "new"))  # fmt: skip
    kept = await asyncio.to_thread(request.state.gateway.store.rename, old, new)
    return _reference("renamed", kept.name, old_reference_id=old, new_reference_id=kept.name)


def _reference(what: str, name: str, **more: str) -> Response:
    body = {"success": True, "message": what, "reference_id": name, **more}
    return JSONResponse(body)
