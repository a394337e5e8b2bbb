"""OpenAI's doors: speech and models."""

from collections.abc import Generator
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from gateway.answers import Flow, answer
from gateway.fields import json_body
from gateway.sound import Piece, Track
from gateway.speech import MODEL, ask_of, model_of
from voicereel import Caller

_CREATED = 1_767_225_600  # 2026-01-01; the API wants a time, and a checkpoint has none
_FRAMES_A_SECOND = 44_100 / 2048  # a semantic token each


def caller_of(request: HTTPConnection) -> Caller:
    """The caller of a request; its trace goes on in the server's."""
    return Caller(request.state.request_id, request.state.span.context)


async def speech(request: Request) -> Response:
    """`POST /v1/audio/speech`."""
    gateway = request.state.gateway
    body = json_body(await request.body())
    # A proxy that speaks HTTP/1.0 could not tell audio that was cut off from complete audio.
    cannot_stream = request.scope["http_version"] == "1.0" and body.get("stream_format") != "sse"
    ask = ask_of(body, gateway.settings, whole=cannot_stream)
    caller, track = caller_of(request), Track(ask.shape)

    def pieces() -> Generator[Piece]:
        return gateway.speak(ask, track)

    def flow() -> Flow:
        account = gateway.account(caller, "speech", ask.model, ask.shape.format)
        return Flow(gateway.streams.open(caller, pieces), track, account)

    answered = await answer(
        request, caller, flow, sse=ask.sse, ends=lambda track: done(len(ask.text), track)
    )
    if ask.ignored:
        answered.headers["X-Ignored-Fields"] = ", ".join(ask.ignored)
    return answered


def done(said: int, track: Track) -> dict[str, Any]:
    """The last event: characters in, frames out, and what the audio is."""
    made = round(track.heard_s * _FRAMES_A_SECOND)
    return {
        "type": "speech.audio.done",
        "usage": {"input_tokens": said, "output_tokens": made, "total_tokens": said + made},
        "samples": track.samples,
        "seconds": track.seconds,
        "sha256": track.sha256,
    }


async def models(request: Request) -> Response:
    """`GET /v1/models`, as OpenAI has it."""
    return JSONResponse({"object": "list", "data": [_model(n) for n in _model_names(request)]})


async def model(request: Request) -> Response:
    """`GET /v1/models/{id}`."""
    name = request.path_params["id"]
    model_of(name, request.state.gateway.settings)
    return JSONResponse(_model(name))


async def audio_models(request: Request) -> Response:
    """`GET /v1/audio/models`, as Open WebUI reads it."""
    return JSONResponse({"models": [{"id": name, "name": name} for name in _model_names(request)]})


def _model_names(request: Request) -> list[str]:
    return [MODEL, *request.state.gateway.settings.aliases.models]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "voicereel"}
