"""The tritonserver behind the proxy: connections, whether it takes requests, and taking back."""

import asyncio
import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import grpc
import grpc.aio

from launch.probe import DEAD, PROBED, why_silent
from proxy.doors import SERVICE
from proxy.load import Load
from proxy.protobuf import pb
from proxy.refusals import Refusal, unavailable
from proxy.settings import Settings

log = logging.getLogger("voicereel.proxy")
MOST_BYTES = 2**31 - 1  # of one gRPC message: the most that gRPC can say
READY_S = 1.5  # seconds that the server may take to say that it is ready
_HUNG_S = 4.0  # seconds without an answer after which what is in flight is given up
_POLL_S = 0.5  # between two looks at the server
_SLOTS_S = 10.0  # between two looks at its metrics
_PROBE_TIMEOUT_S = 20.0
_DEAD_S = 30.0  # a model that died stays dead so long: others of its instances may answer
_ABANDONED_S = 60.0  # seconds that a request may take to end after it was taken back
# Seconds that a call to the server outlives its caller's deadline: until then the request has been
# taken back, which ends it without a cancel in the moment of its end. See `take_back`.
GRACE_S = 60.0
_SLOTS = re.compile(r"^fish_llama_slots(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
# Of the server's shared memory; the Python backend names it where that is full (CVE-2025-23319).
_REGION = re.compile(r"voicereel_[0-9a-f]{8}_[0-9a-f-]{36}")
_UNSENT = "proxy: failed to connect to all addresses of the server"  # gRPC's own words
_OPTIONS = [
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # A server that comes back is found within half a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
]


class Server:
    """The server's connections, and what is known of it.

    Attributes:
        channel: For gRPC.
        session: For HTTP.
        closing: Whether the proxy takes nothing new.
    """

    def __init__(self, settings: Settings, load: Load) -> None:
        """Connect; needs a running event loop."""
        self._settings, self._load = settings, load
        self.channel = grpc.aio.insecure_channel(settings.server_grpc, options=_OPTIONS)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )
        self.closing = False
        self._dead: dict[str, tuple[str, float]] = {}  # model: why, and when it was last seen
        self._lost: set[Callable[[str], None]] = set()
        self._tasks = set[asyncio.Task]()
        self.spawn(self._watch())
        if settings.probe_s:
            for model in PROBED:
                self.spawn(self._probe(model))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run in the background, until `close` at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what runs in the background, and disconnect."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.session.close()
        await self.channel.close()

    async def ready(self) -> str:
        """Why it takes no requests now; "" if it does."""
        if self.closing:
            return "the proxy is shutting down"
        return self.why_dead() or await self._asked("ServerReady", READY_S)

    async def _asked(self, method: str, timeout_s: float) -> str:
        ask = self.channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            reply: Any = await ask(b"", timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"the server has not answered for {timeout_s:g} s"
            return f"the server cannot be reached: {without_address(error.details() or '')}"
        answer = getattr(pb, f"{method}Response").FromString(reply)
        return "" if answer.ready else "the server is not ready"

    def why_not(self, model: str) -> str:
        """Why a model takes no requests by this proxy; "" if it is the server that knows."""
        return "the proxy is shutting down" if self.closing else self.why_dead(model)

    def why_dead(self, model: str = "") -> str:
        """Which model's process (or this one's) has died, in words; "" if none has."""
        now = time.monotonic()
        for name, (why, seen) in self._dead.items():
            if now - seen < _DEAD_S and model in ("", name):
                return f"the process of {name} has died: {why}"
        return ""

    def heard(self, model: str, words: str) -> None:
        """Look at an error of the server: it may say that a model's process has died."""
        if words and DEAD.search(words):
            named = re.search(r"fish_[a-z]+(?:_stream)?(?=_\d)", words)
            name = named[0] if named else model
            is_new = not self.why_dead(name)
            self._dead[name] = words[:300], time.monotonic()
            if is_new:
                self._lose(self.why_dead(name))

    def require(self) -> None:
        """Refuse a new request that cannot be answered.

        Raises:
            Refusal: If the proxy ends, or a model's process has died.
        """
        if self.closing:
            raise unavailable(f"{_UNSENT}: the proxy is shutting down", "closing")
        if why := self.why_dead():
            raise unavailable(f"{_UNSENT}: {why}. Try again when the server is back.", "dead")

    def on_loss(self, end: Callable[[str], None]) -> Callable[[], None]:
        """Call `end` with a reason if the server is lost; returns how to forget that."""
        self._lost.add(end)
        return lambda: self._lost.discard(end)

    def _lose(self, why: str) -> None:
        log.error(json.dumps({"event": "server lost", "why": why}))
        for end in list(self._lost):
            end(why)

    async def _watch(self) -> None:
        """Give up what is in flight when the server hangs; know its slots."""
        looked, was_ready = 0.0, False
        while True:
            begin = time.monotonic()
            why = await self._asked("ServerReady", _HUNG_S)
            if not why and not was_ready:
                self._dead.clear()  # it has been started again
            was_ready = not why
            if why and time.monotonic() - begin > _HUNG_S - 0.5 and self._lost:
                self._lose(why)
            if was_ready and time.monotonic() - looked > _SLOTS_S:
                looked = time.monotonic()
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await self.metrics()
            await asyncio.sleep(_POLL_S)

    async def _probe(self, model: str) -> None:
        while not self.closing:
            await asyncio.sleep(self._settings.probe_s)
            self.heard(model, await why_silent(self.channel, model, _PROBE_TIMEOUT_S))

    async def metrics(self) -> bytes:
        """The server's Prometheus page."""
        url = f"http://{self._settings.server_metrics}/metrics"
        async with self.session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
            page = await answer.read()
        if found := _SLOTS.search(page.decode("utf-8", "replace")):
            self._load.slots = max(1, int(float(found[1])))
        return page

    def take_back(self, token: str) -> None:
        """End a request by its token: Triton tells no model that a caller has gone.

        Cancelling the call itself can crash Triton 24.05 to 25.03 (server issue 8034).
        """
        request = pb.ModelInferRequest(model_name="fish_cancel", id=uuid.uuid4().hex)
        request.inputs.add(name="cancel_token", datatype="BYTES", shape=[1, 1])
        text = token.encode()
        request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
        message = request.SerializeToString()

        async def ask() -> None:
            call: Any = self.channel.unary_unary(f"/{SERVICE}/ModelInfer")
            with contextlib.suppress(grpc.RpcError):
                await call(message, timeout=_ABANDONED_S)

        self.spawn(ask())

    def abandon(self, rest: Coroutine[Any, Any, Any], give_up: Callable[[], Any]) -> None:
        """Let a call end by itself, or be given up after `_ABANDONED_S`."""

        async def wait() -> None:
            try:
                await asyncio.wait_for(rest, _ABANDONED_S)
            except (Exception, asyncio.CancelledError):  # its outcome interests nobody
                give_up()

        self.spawn(wait())


def connection_refusal(why: str) -> Refusal:
    """What a caller is told when the connection to the server failed.

    Clients of gRPC know by its own words whether a request may be sent again, ours as well.
    """
    return unavailable(f"proxy: connection reset, the server has gone: {why}", "connection")


def not_connected() -> Refusal:
    """What a caller is told when there is no connection, so that nothing has been sent."""
    return unavailable(f"{_UNSENT}. Try again when it is back.", "connection")


def without_address(words: str) -> str:
    """GRPC's words without where the server is, which callers need not know."""
    return re.sub(r"; last error:.*|\bipv[46]:\S+ ?", "", words)


def without_region(words: str) -> str:
    """The server's words without the name of its shared memory, as long as they were."""
    return _REGION.sub(lambda found: "x" * len(found[0]), words)
