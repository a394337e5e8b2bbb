"""The HTTP port and the metrics port."""

import asyncio
import contextlib
import socket
from typing import Any

import aiohttp
from aiohttp import web
from grpc import StatusCode

from ensemble.contract.errors import MOST_CHARACTERS
from proxy.account import Account, http_log
from proxy.doors import Door
from proxy.inference import WARNING, Ask, Proxy, elsewhere, look_at_body
from proxy.load import Asked
from proxy.refusals import Refusal, of_the_server, too_large, unavailable
from proxy.server import READY_S, connection_refusal, not_connected, without_region

IDLE_S = 75.0  # seconds that a connection may take to its next request, headers included
_BODY_S = 60.0  # seconds that a body may take to come
_HELD = 512 * 2**20  # bytes of all bodies together
_OTHER_BODY = 2**20  # bytes of a body of anything but inference
_PIECE = 2**16  # bytes read from the server at a time
# They belong to one connection, or are written anew.
_HOP = ("connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-authorization",
        "host", "content-length", "expect", "trailer")  # fmt: skip
# A caller whose machine or network has gone is found in half a minute.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class HttpSide:
    """Every request of the HTTP port."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy, self._held = proxy, 0
        self._url = f"http://{proxy.settings.server_http}"

    def runner(self) -> web.ServerRunner:
        """What listens, not set up."""
        server = web.Server(
            self._answer, access_log=None, auto_decompress=False, handler_cancellation=True,
            keepalive_timeout=IDLE_S, lingering_time=0, logger=http_log,
        )  # fmt: skip
        return web.ServerRunner(server)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        what = f"{request.method} {request.rel_url.raw_path}"
        account = Account("http", what, self._proxy.metrics)
        _keep_alive(request)
        try:
            return await self._through(request, account)
        except Refusal as refusal:
            account.refused(refusal)
            answer = web.json_response(
                {"error": refusal.message}, status=refusal.http, headers=refusal.headers
            )
            if not request.content.at_eof():
                answer.force_close()  # the rest of the body is not read
            return answer
        except (asyncio.CancelledError, ConnectionError, aiohttp.ClientConnectionResetError):
            account.end("left", "499")
            raise

    async def _through(self, request: web.BaseRequest, account: Account) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        path = request.rel_url.raw_path
        door = self._proxy.doors.http(request.method, path, headers)
        account.model = door.model
        if door.kind == "infer":
            return await self._infer(request, account, door, headers)
        if door.kind == "health" and path.endswith("ready"):
            _require(await self._proxy.server.ready())
        elif door.kind == "model_ready":
            _require(self._proxy.server.why_not(door.model))
        body = b""
        if request.method == "POST":
            with self._holding(request) as held:
                body = await held(_OTHER_BODY)
        account.sent = len(body)
        is_quick = door.kind in ("health", "model_ready")
        answer = await self._send(
            request.method, path, body, _passed_on(headers), READY_S if is_quick else None
        )
        return await self._pass_back(request, account, answer)

    async def _infer(
        self, request: web.BaseRequest, account: Account, door: Door, headers: dict[str, str]
    ) -> web.StreamResponse:
        proxy = self._proxy
        proxy.server.require()
        proxy.doors.model(door.model, headers)
        with self._holding(request) as held:
            body = await held(proxy.settings.max_body)
            account.sent = len(body)
            size = len(body) if "content-encoding" not in headers else proxy.settings.max_body
            ask = await elsewhere(look_at_body, size, proxy, door.model, door.how, body, headers)
            account.id = ask.id
            asked = proxy.admit(ask)
            try:
                return await self._asked(request, account, headers, ask, asked)
            finally:
                proxy.load.end(asked)

    async def _asked(
        self, request: web.BaseRequest, account: Account, headers: dict[str, str], ask: Ask,
        asked: Asked,
    ) -> web.StreamResponse:  # fmt: skip
        sent = _passed_on(headers)
        sent.pop("content-encoding", None)  # it goes on unpacked
        sent.pop("inference-header-content-length", None)
        if ask.header_bytes is not None:
            sent["Inference-Header-Content-Length"] = str(ask.header_bytes)
        path = request.rel_url.raw_path
        lost: list[str] = []
        work = asyncio.ensure_future(self._send("POST", path, ask.content, sent, None))

        def lose(why: str) -> None:
            lost.append(why)
            work.result().close() if work.done() else work.cancel()

        forget = self._proxy.server.on_loss(lose)
        try:
            return await self._pass_back(request, account, await asyncio.shield(work), asked,
                                         ask.warning)  # fmt: skip
        except (asyncio.CancelledError, ConnectionError, Refusal) as problem:
            if lost:
                raise connection_refusal(lost[0]) from None
            if isinstance(problem, asyncio.CancelledError | ConnectionError) or problem.left:
                if ask.token:
                    self._proxy.server.take_back(ask.token)
                self._proxy.server.abandon(_rest(work), work.cancel)
            raise
        finally:
            forget()

    async def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str], timeout_s: float | None
    ) -> aiohttp.ClientResponse:
        """The server's answer, whose body has not been read."""
        url = self._url + path
        try:
            request = self._proxy.server.session.request(
                method, url, data=body or None, headers=headers, allow_redirects=False
            )
            return await asyncio.wait_for(request, timeout_s)
        except asyncio.TimeoutError:
            raise connection_refusal(f"no answer in {timeout_s:g} s") from None
        except aiohttp.ClientConnectorError:
            raise not_connected() from None
        except aiohttp.ClientError as error:
            raise connection_refusal(str(error) or type(error).__name__) from None

    async def _pass_back(
        self, request: web.BaseRequest, account: Account, answer: aiohttp.ClientResponse,
        asked: Asked | None = None, warning: str = "",
    ) -> web.StreamResponse:  # fmt: skip
        """Copy an answer, only as fast as the caller reads it."""
        piece = await _words(answer) if answer.status >= 400 else b""
        full = of_the_server(said := piece[:2000].decode("utf-8", "replace"))
        status, hints = (full.http, full.headers) if full else (answer.status, None)
        back = web.StreamResponse(status=status, headers=hints)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP:
                back.headers.add(name, value)
        if warning:
            back.headers[WARNING] = warning
        back.content_length = answer.content_length
        slow_s = self._proxy.settings.slow_reader_s
        try:
            await back.prepare(request)
            while piece := piece or await _piece(answer):
                if asked is not None and answer.status == 200 and piece[:40].find(b'"error"') < 0:
                    self._proxy.load.answered(asked)
                if answer.status >= 400:
                    piece = without_region(piece.decode("latin-1")).encode("latin-1")
                await asyncio.wait_for(back.write(piece), slow_s)
                account.got += len(piece)
                piece = b""
            await back.write_eof()
        except asyncio.TimeoutError:
            _break_off(request)
            raise Refusal(
                "slow", f"proxy: nothing was read for {slow_s:g} s", StatusCode.ABORTED
            ) from None
        except Refusal as refusal:
            account.end("failed", str(answer.status), refusal.reason)
            _break_off(request)  # a polite end would look like a whole answer
            raise
        answer.release()
        if answer.status >= 400:
            self._proxy.server.heard(account.model, said)
        account.end("done" if answer.status < 400 else "failed", str(status))
        return back

    def _holding(self, request: web.BaseRequest) -> "_Holding":
        return _Holding(self, request)


class _Holding:
    """Reads a body, and counts its bytes as held until the end of the context."""

    def __init__(self, side: HttpSide, request: web.BaseRequest) -> None:
        self._side, self._request, self._bytes = side, request, 0

    def __enter__(self) -> Any:
        return self._read

    def __exit__(self, *_: object) -> None:
        self._side._held -= self._bytes

    async def _read(self, limit: int) -> bytes:
        if (self._request.content_length or 0) > limit:
            raise _too_long(limit)
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            return await asyncio.wait_for(self._pieces(limit), _BODY_S)
        except asyncio.TimeoutError:
            raise Refusal(
                "slow", f"proxy: the body did not come in {_BODY_S:g} s",
                StatusCode.INVALID_ARGUMENT,
            ) from None  # fmt: skip

    async def _pieces(self, limit: int) -> bytes:
        parts: list[bytes] = []
        async for part in self._request.content.iter_any():
            self._bytes += len(part)
            self._side._held += len(part)
            if self._bytes > limit:
                raise _too_long(limit)
            if self._side._held > _HELD:
                raise unavailable("proxy: too many large requests at a time", "memory")
            parts.append(part)
        return b"".join(parts)


async def _piece(answer: aiohttp.ClientResponse) -> bytes:
    """The next bytes of an answer; b"" at its end."""
    try:
        return await answer.content.read(_PIECE)
    except aiohttp.ClientError as error:
        raise connection_refusal(str(error) or type(error).__name__) from None


async def _words(answer: aiohttp.ClientResponse) -> bytes:
    """The beginning of an error: all of it, if it is as short as the server's are."""
    words = b""
    while len(words) < MOST_CHARACTERS and (piece := await _piece(answer)):
        words += piece
    return words


async def _rest(work: Any) -> None:
    """Read an answer to its end, for nobody."""
    answer = await work
    while await answer.content.read(_PIECE):
        pass
    answer.release()


def _require(why: str) -> None:
    if why:
        raise unavailable(f"proxy: not ready: {why}", "not_ready")


def _too_long(limit: int) -> Refusal:
    mib = limit / 2**20
    return too_large(f"the body is larger than {mib:g} MiB. Send less, or raise --max-body-mib.")


def _passed_on(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in _HOP}


def _break_off(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _keep_alive(request: web.BaseRequest) -> None:
    """Have the kernel ask for signs of life of the caller."""
    found: Any = request.transport and request.transport.get_extra_info("socket")
    for name, value in _KEEPALIVE.items() if found else ():
        with contextlib.suppress(OSError, AttributeError):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
