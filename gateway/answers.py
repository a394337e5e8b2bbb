"""Answers: the status waits for the first audio; then bytes or events as they come."""

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.account import Account
from gateway.errors import api_error
from gateway.formats import FORMATS
from gateway.sound import Piece, Track
from gateway.streams import Stream
from voicereel import Caller, Cancelled

log = logging.getLogger("voicereel.gateway")
# So that proxies pass every piece on at once.
_UNBUFFERED = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


class Flow:
    """A stream of pieces on its way to one caller over HTTP.

    Attributes:
        account: Its times.
        track: What the pieces make up.
    """

    def __init__(self, stream: Stream[Piece], track: Track, account: Account) -> None:
        self._stream, self.track, self.account = stream, track, account

    async def first(self) -> Piece:
        """The first piece; raises what happens before it."""
        try:
            return self._counted(await anext(self._stream))
        except BaseException as error:
            self.end(error)
            raise

    async def next(self) -> Piece | None:
        """The next piece; None at the end."""
        piece = await anext(self._stream, None)
        return piece and self._counted(piece)

    def _counted(self, piece: Piece) -> Piece:
        self.account.arrived(piece.seconds)
        return piece

    def end(self, error: BaseException | None = None) -> None:
        """End it, whether it has come to its end or not."""
        self._stream.leave()
        if error is None:
            outcome = "done"
        elif isinstance(error, Cancelled | asyncio.CancelledError):
            outcome = "left"
        else:
            outcome = api_error(error).code or "failed"
            if self.account.first_s is not None:  # else the guards answer it, and log it
                log.log(_level(error), "%s: %s", self.account.request_id, error)
        self.account.ended(outcome)


def _level(error: BaseException) -> int:
    return logging.ERROR if api_error(error).status >= 500 else logging.INFO


async def leave_with(receive: Receive, caller: Caller) -> None:
    """Let the caller leave when its connection ends."""
    while (await receive())["type"] != "http.disconnect":
        pass
    caller.leave()


async def answer(
    request: Request,
    caller: Caller,
    flow: Callable[[], Flow],
    *,
    sse: bool,
    ends: "Ends",
    wrap: Callable[[bytes, Track], Response] | None = None,
) -> Response:
    """Answer with what a flow gives; before the first audio its errors are raised.

    Args:
        request: The request.
        caller: Who leaves when the connection ends.
        flow: Begins the flow.
        sse: Whether it leaves as events.
        ends: Gives the fields of the last event.
        wrap: Makes an answer of whole audio; left out: the audio itself.
    """
    watch = asyncio.create_task(leave_with(request.receive, caller))
    try:
        running = flow()
        first = await running.first()
        if not running.track.shape.whole:
            return Streamed(running, first, watch, sse, ends)
        data = await _whole(running, first)
    except BaseException:
        watch.cancel()
        raise
    watch.cancel()
    return (wrap or plain)(data, running.track)


def plain(data: bytes, track: Track) -> Response:
    """Whole audio as it is."""
    return Response(data, headers=headers_of(track))


async def _whole(flow: Flow, first: Piece) -> bytes:
    found, error = [first.data], None
    try:
        while piece := await flow.next():
            found.append(piece.data)
        return b"".join(found)
    except BaseException as problem:
        error = problem
        raise
    finally:
        flow.end(error)


def headers_of(track: Track) -> dict[str, str]:
    """Headers that say what the audio is."""
    shape, found = track.shape, FORMATS[track.shape.format]
    pcm = f"; rate={shape.rate_hz}; channels=1" if shape.format == "pcm" else ""
    return {
        "Content-Type": found.content_type + pcm,
        "X-Sample-Rate": str(shape.rate_hz),
        "X-Channels": "1",
        **({"X-Bit-Depth": "16"} if found.is_exact else {}),
    }


Ends = Callable[[Track], dict[str, Any]]  # the fields of the last event


def event(fields: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(fields, ensure_ascii=False)}\n\n".encode()


class Streamed(Response):
    """Audio, or events, as they come. After an error audio is cut off, and never ends politely."""

    def __init__(
        self, flow: Flow, first: Piece, watch: asyncio.Task[None], sse: bool, ends: Ends
    ) -> None:
        headers = headers_of(flow.track) | _UNBUFFERED
        if sse:
            headers["Content-Type"] = "text/event-stream; charset=utf-8"
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._flow, self._first, self._watch = flow, first, watch
        self._sse, self._ends = sse, ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        )  # fmt: skip
        error: BaseException | None = None
        try:
            piece: Piece | None = self._first
            while piece:
                await _send(send, self._encoded(piece))
                piece = await self._flow.next()
            if self._sse:
                await _send(send, event(self._ends(self._flow.track)))
        except BaseException as problem:
            error = problem
            if not isinstance(problem, Exception):
                raise
            if self._sse and not isinstance(problem, Cancelled):
                body = api_error(problem).body()
                await _send(send, event({"type": "speech.audio.error", **body}))
        finally:
            self._watch.cancel()
            self._flow.end(error)
        if error is None or self._sse:
            await send({"type": "http.response.body", "body": b""})
        # Else the server closes the connection, since the answer is not complete.

    def _encoded(self, piece: Piece) -> bytes:
        if not self._sse:
            return piece.data
        audio = base64.b64encode(piece.data).decode()
        delta = event({"type": "speech.audio.delta", "audio": audio}) if audio else b""
        captions = [event({"type": "speech.caption", **caption}) for caption in piece.captions]
        return b"".join([delta, *captions])


async def _send(send: Send, data: bytes) -> None:
    if not data:
        return
    with suppress(OSError):  # the watch sees who has left
        await send({"type": "http.response.body", "body": data, "more_body": True})
