"""What every request passes: its id, the key, the size of the body; and errors on the way out."""

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError, api_error
from gateway.gateway import Gateway
from gateway.settings import MIB, is_loopback
from gateway.traces import Span, Traces, context_of

log = logging.getLogger("voicereel.gateway")
# A caller's id goes into logs: no spaces, no line breaks, not long.
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
# What needs no key: the page asks for one itself, and probes have none.
_OPEN_PATHS = re.compile(r"/|/page/[\w.]+|/health(/live|/ready)?")
# Paths of speech, which are traced.
_TRACED = re.compile(r"/v1/(audio/(speech(/stream)?|scripts)|tts(/live)?)")
_FISH_PATHS = ("/v1/tts", "/v1/references")
_PIECE_S = 30  # seconds within which the next piece of a body must come
_WRONG_HEADERS = ("x-api-key", "api-key", "xi-api-key")


class Guards:
    """The outermost layer. It answers every error, so that no traceback leaves or is logged."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway
        self._hashes = gateway.settings.hashes
        self._max_body_bytes = gateway.settings.max_body_mib * MIB
        self._is_local = is_loopback(gateway.settings.host) and not self._hashes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        scope["state"] = {"request_id": request_id, "gateway": self._gateway}
        scope["app"] = self  # else the router answers unknown paths in words of its own
        with _span(self._gateway.traces, scope, headers) as span:
            span.note(voicereel__request_id=request_id)
            scope["state"]["span"] = span
            await self._answered(scope, headers, receive, _Answer(send, request_id, span))

    async def _answered(
        self, scope: Scope, headers: Headers, receive: Receive, answer: "_Answer"
    ) -> None:
        try:
            self._check_host(headers)
            self._check_origin(scope, headers)
            self._check_key(scope, headers)
            self._check_length(headers)
            body_s = self._gateway.settings.timeout_s
            await self._app(scope, _Limited(receive, self._max_body_bytes, body_s), answer)
        except ClientDisconnect:
            log.info("%s: the caller left before its request was complete", answer.request_id)
        except HTTPException as error:
            refusal = ApiError(error.status_code, _no_such_door(scope, error))
            await self._refuse(refusal, scope, receive, answer)
        except Exception as error:
            await self._refuse(error, scope, receive, answer)

    async def _refuse(
        self, error: Exception, scope: Scope, receive: Receive, answer: "_Answer"
    ) -> None:
        refusal = api_error(error)
        self._gateway.metrics.refused(refusal.code or str(refusal.status))
        level = logging.ERROR if refusal.status >= 500 else logging.INFO
        log.log(level, "%s: %d %s", answer.request_id, refusal.status, _logged(error))
        if scope["type"] == "websocket":
            if not answer.has_begun:  # which the caller gets as an HTTP status
                await refuse_socket(refusal, scope, answer)
            else:
                await answer({"type": "websocket.close", "code": 1011})
        elif not answer.has_begun:
            flat = scope["path"].startswith(_FISH_PATHS)
            await refusal.response(flat)(scope, receive, answer)

    def _check_host(self, headers: Headers) -> None:
        """Refuse foreign names where loopback is the only guard.

        A page elsewhere can make its own name point to this machine, and its reader's browser then
        takes the gateway for that page's server. The name in the header gives it away.
        """
        name = urlsplit(f"//{headers.get('host', '')}").hostname if self._is_local else None
        if name and not (is_loopback(name) or name in self._gateway.settings.allowed_hosts):
            raise ApiError(403, f"this gateway is not {name}; see VOICEREEL_GATEWAY_HOSTS")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse what a foreign page sends through its reader's browser: it asks for no leave."""
        origin = headers.get("origin")
        if origin is None or scope.get("method") in ("GET", "HEAD", "OPTIONS"):
            return
        is_own = urlsplit(origin).netloc == headers.get("host")
        if not (is_own or origin in self._gateway.settings.allowed_origins):
            raise ApiError(403, "pages of this origin may not call; see VOICEREEL_GATEWAY_ORIGINS")

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        is_open = not self._hashes or _OPEN_PATHS.fullmatch(scope["path"])
        if is_open or scope.get("method") == "OPTIONS":  # a browser asks without a key first
            return
        kind, _, key = headers.get("authorization", "").partition(" ")
        if scope["type"] == "websocket" and not key:  # a browser's cannot set headers
            key = next((p[4:] for p in scope["subprotocols"] if p.startswith("key.")), "")
            kind = "bearer"
        if kind.lower() == "bearer" and self._knows(key.strip()):
            return
        wrong = next((name for name in _WRONG_HEADERS if name in headers), None)
        got = "the key is wrong" if key else f"it came in {wrong}" if wrong else "there is no key"
        raise ApiError(401, f"{got}; expected the header Authorization: Bearer KEY")

    def _knows(self, key: str) -> bool:
        found = hash_of(key)
        return any([hmac.compare_digest(found, known) for known in self._hashes])

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)


async def refuse_socket(refusal: ApiError, scope: Scope, send: Send) -> None:
    """Answer a WebSocket's request with an HTTP error, if the server can; else close it."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    response = refusal.response()
    start = {"status": response.status_code, "headers": response.raw_headers}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": response.body})


def _no_such_door(scope: Scope, error: HTTPException) -> str:
    what = f"{scope.get('method', 'WEBSOCKET')} {scope['path']}"
    words = {404: f"there is no {what}", 405: f"{what} is not allowed"}
    return words.get(error.status_code, error.detail)


def hash_of(key: str) -> str:
    """What is kept of a key; keys are random, so that one round is enough."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def too_large(max_body_bytes: int) -> ApiError:
    """The refusal of a body."""
    return ApiError(413, f"the body has more than {max_body_bytes // 2**20} MiB")


def _logged(error: Exception) -> str:
    """One line for the log, without what the caller sent and without a traceback."""
    if isinstance(error, ApiError):  # whose message may repeat a field
        return f"{error.code} {error.param or ''}".strip()
    at = error.__traceback__
    while at and at.tb_next:
        at = at.tb_next
    where = f" ({at.tb_frame.f_globals.get('__name__')}:{at.tb_lineno})" if at else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}{where}"


def _span(traces: Traces, scope: Scope, headers: Headers) -> AbstractContextManager[Span]:
    """The span of a request for speech; other requests have none."""
    context = context_of(headers)
    if not _TRACED.fullmatch(scope["path"]):
        return nullcontext(Span(context))
    return traces.span(f"{scope.get('method', 'WEBSOCKET')} {scope['path']}", "SERVER", context)


class _Answer:
    """Sends an answer with the request's id."""

    def __init__(self, send: Send, request_id: str, span: Span) -> None:
        self._send, self.request_id, self.has_begun = send, request_id, False
        self._span, self._has_audio = span, False

    async def __call__(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            self.has_begun = True
            MutableHeaders(scope=message)["X-Request-Id"] = self.request_id
        if status := message.get("status"):
            self._span.note(http__response__status_code=status)
        if not self._has_audio and (message.get("body") or message.get("bytes")):
            self._has_audio = True
            self._span.event("first audio")
        await self._send(message)


class _Limited:
    """Receives a body up to a limit of bytes and of seconds; the rest is not read."""

    def __init__(self, receive: Receive, max_body_bytes: int, body_s: float) -> None:
        self._receive, self._left, self._limit = receive, max_body_bytes, max_body_bytes
        self._deadline, self._is_whole = time.monotonic() + body_s, False

    async def __call__(self) -> Message:
        if self._is_whole:  # what comes now is that the caller leaves
            return await self._receive()
        patience_s = min(_PIECE_S, self._deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), patience_s)
        except asyncio.TimeoutError:
            raise ApiError(408, "the body did not come in time; send it without pauses") from None
        self._is_whole = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise too_large(self._limit)
        return message
