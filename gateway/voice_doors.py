"""`/v1/audio/voices`: list, add, show and delete voices."""

import asyncio
from collections.abc import Collection, Iterable

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import ApiError
from gateway.fields import checked_words
from gateway.recordings import MAX_RECORDING_BYTES

FIELDS = ("name", "audio_sample", "transcript", "consent")


async def listed(request: Request) -> Response:
    """`GET`: every name that can be asked for, in the shapes that apps read."""
    gateway = request.state.gateway
    kept = {voice.name: voice for voice in await asyncio.to_thread(gateway.store.all)}
    voices = [
        kept[name].as_json() if name in kept else {"id": name, "name": name}
        for name in gateway.voices.names()
    ]
    data = [voice for voice in voices if "object" in voice]
    return JSONResponse({"object": "list", "voices": voices, "data": data})


async def add(request: Request) -> Response:
    """`POST`, multipart: name, audio_sample, transcript, consent."""
    form = await form_of(request)
    try:
        check_fields(form.keys(), FIELDS)
        name, transcript, consent = (
            checked_words(form.get(field), field) for field in ("name", "transcript", "consent")
        )
        recording = await file_of(form, "audio_sample")
    finally:
        await form.close()
    store = request.state.gateway.store
    kept = await asyncio.to_thread(store.add, name, recording, transcript, consent)
    return JSONResponse(kept.as_json())


async def show(request: Request) -> Response:
    """`GET /{id}`, by id or name."""
    kept = await asyncio.to_thread(request.state.gateway.store.get, request.path_params["id"])
    return JSONResponse(kept.as_json())


async def delete(request: Request) -> Response:
    """`DELETE /{id}`, by id or name."""
    kept = await asyncio.to_thread(request.state.gateway.store.remove, request.path_params["id"])
    return JSONResponse({"object": "audio.voice.deleted", "id": kept.id, "deleted": True})


async def form_of(request: Request) -> FormData:
    """The fields of a multipart body.

    Raises:
        ApiError: 400, if it is none.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "the body is no multipart/form-data")
    try:
        return await request.form(max_files=16, max_fields=64)
    except HTTPException as error:
        raise ApiError(400, f"the body is no multipart/form-data: {error.detail}") from None


def check_fields(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse a field of a form that there is not.

    Raises:
        ApiError: 422.
    """
    if unknown := set(names) - set(known):
        name = min(unknown)
        raise ApiError(
            422, f"{name} is no field; there are {', '.join(known)}", name, "unknown_field"
        )


async def file_of(form: FormData, param: str) -> bytes:
    """The bytes of a file in a form, a byte more than allowed at most.

    Raises:
        ApiError: 422, if there is none.
    """
    file = form.get(param)
    if not isinstance(file, UploadFile):
        message = f"{param} is missing; send the recording as a file"
        raise ApiError(422, message, param, "missing_field")
    return await file.read(MAX_RECORDING_BYTES + 1)
