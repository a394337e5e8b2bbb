"""The gRPC port: every method of Triton's service, as bytes."""

import asyncio
from typing import Any

import grpc
import grpc.aio

from proxy.account import Account
from proxy.doors import READY, SERVICE
from proxy.grpc_stream import Stream
from proxy.inference import WARNING, Ask, Proxy, elsewhere, look_at_message, shorter
from proxy.packed import message_content
from proxy.protobuf import parsed, pb
from proxy.refusals import Refusal, of_the_server
from proxy.server import (
    GRACE_S,
    MOST_BYTES,
    READY_S,
    connection_refusal,
    not_connected,
    without_address,
    without_region,
)

_OPTIONS = [
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.per_message_decompression", 0),  # we do it, up to a limit
    ("grpc.server_handshake_timeout_ms", 20_000),  # of a connection that says nothing
    # A caller whose machine or network has gone is found within 20 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),  # of callers with their own
]


class GrpcSide(grpc.GenericRpcHandler):
    """Every call of the gRPC port."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def server(self) -> grpc.aio.Server:
        """A server with this handler, not started."""
        limit = ("grpc.max_receive_message_length", self._proxy.settings.max_body)
        server = grpc.aio.server(options=[*_OPTIONS, limit])
        server.add_generic_rpc_handlers((self,))
        return server

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None: there is no such method, which gRPC says itself."""
        method = handler_call_details.method
        metadata = dict(handler_call_details.invocation_metadata or ())
        try:
            name = self._proxy.doors.grpc(method, metadata)
        except Refusal as refusal:
            return grpc.unary_unary_rpc_method_handler(self._refusing(method, refusal))
        if not name:
            self._proxy.metrics.refused("unknown")
            return None
        if name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if name == "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(self._infer)

        async def other(message: bytes, context: Any) -> bytes:
            return await self._other(name, method, message, context)

        return grpc.unary_unary_rpc_method_handler(other)

    def _refusing(self, method: str, refusal: Refusal) -> Any:
        async def refuse(_: bytes, context: Any) -> None:
            account = Account("grpc", method, self._proxy.metrics)
            await abort(context, account, refusal)

        return refuse

    async def _other(self, name: str, method: str, message: bytes, context: Any) -> bytes:
        """Anything but inference: passed on as it is, but for who is ready."""
        account = Account("grpc", name, self._proxy.metrics)
        account.sent = len(message)
        try:
            message = message_content(message, self._proxy.settings.max_body)
            if name in ("Check", "ServerReady"):
                why = await self._proxy.server.ready()
                reply = _health(name, why)
            elif name == "ModelReady" and self._dead(message):
                reply = pb.ModelReadyResponse(ready=False).SerializeToString()
            else:
                left_s = context.time_remaining()
                left_s = shorter(left_s, READY_S) if name in READY else left_s
                call: Any = self._proxy.server.channel.unary_unary(method)
                reply = await call(message, timeout=left_s, metadata=passed_on(context))
        except Refusal as refusal:
            await abort(context, account, refusal)
        except grpc.aio.AioRpcError as error:
            await abort_with(context, account, error)
        except asyncio.CancelledError:
            account.end("left", "CANCELLED")
            raise
        account.got = len(reply)
        account.end("done", "OK")
        return reply

    def _dead(self, message: bytes) -> str:
        named = parsed(message, "ModelReadyRequest").name
        return self._proxy.server.why_not(named)

    async def _infer(self, message: bytes, context: Any) -> bytes:
        account = Account("grpc", "ModelInfer", self._proxy.metrics)
        account.sent = len(message)
        proxy = self._proxy
        try:
            proxy.server.require()
            headers = dict(context.invocation_metadata() or ())
            ask = await elsewhere(look_at_message, len(message), proxy, message, headers)
            account.id, account.model = ask.id, ask.model
            if ask.warning:
                context.set_trailing_metadata(((WARNING, ask.warning),))
            asked = proxy.admit(ask, context.time_remaining())
        except Refusal as refusal:
            await abort(context, account, refusal)
        try:
            reply = await self._answer(ask, context)
            proxy.load.answered(asked)
        except Refusal as refusal:
            await abort(context, account, refusal)
        except grpc.aio.AioRpcError as error:
            proxy.server.heard(ask.model, error.details() or "")
            await abort_with(context, account, error)
        except asyncio.CancelledError:
            account.end("left", "CANCELLED")
            raise
        finally:
            proxy.load.end(asked)
        account.got = len(reply)
        account.end("done", "OK")
        return reply

    async def _answer(self, ask: Ask, context: Any) -> bytes:
        """The server's answer; if the caller leaves before it comes, the request is taken back."""
        server, left_s = self._proxy.server, context.time_remaining()
        call: Any = server.channel.unary_unary(f"/{SERVICE}/ModelInfer")(
            ask.content,
            timeout=None if left_s is None else left_s + GRACE_S,
            metadata=passed_on(context),
        )
        lost: list[str] = []

        def lose(why: str) -> None:
            lost.append(why)
            call.cancel()

        forget = server.on_loss(lose)
        waiting = asyncio.ensure_future(_reply(call))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if lost:
                raise connection_refusal(lost[0]) from None
            if ask.token:
                server.take_back(ask.token)
            server.abandon(waiting_for(waiting), call.cancel)
            raise
        finally:
            forget()

    async def _stream(self, requests: Any, context: Any) -> None:
        """Of its requests each has a line in the log, so the call itself has none."""
        try:
            await Stream(self._proxy, context, passed_on(context)).run(requests)
        except Refusal as refusal:
            await abort(context, None, refusal)
        except grpc.aio.AioRpcError as error:
            await abort_with(context, None, error)


async def _reply(call: Any) -> bytes:
    return await call


async def waiting_for(waiting: Any) -> Any:
    """Wait for a future as a coroutine."""
    return await waiting


def passed_on(context: Any) -> tuple[tuple[str, Any], ...]:
    """The caller's metadata, without what belongs to its connection.

    With triton_grpc_error a stream's errors have a status, but tritonserver 2.51 crashes after
    some tens of them: `Stream` does it instead.
    """
    ours = ("user-agent", "content-type", "te", "triton_grpc_error")
    return tuple(
        (key, value)
        for key, value in context.invocation_metadata() or ()
        if key not in ours and not key.startswith(("grpc-", ":"))
    )


def _health(name: str, why: str) -> bytes:
    if name == "ServerReady":
        return pb.ServerReadyResponse(ready=not why).SerializeToString()
    return b"\x08\x02" if why else b"\x08\x01"  # grpc.health.v1: NOT_SERVING, SERVING


async def abort(context: Any, account: Account | None, refusal: Refusal) -> Any:
    """End a call with a refusal."""
    if account is not None:
        account.refused(refusal)
    await context.abort(refusal.code, refusal.message, refusal.trailers)


async def abort_with(context: Any, account: Account | None, error: Any) -> Any:
    """End a call as the server ended it."""
    if account is not None:
        account.end("failed", error.code().name)
    words = without_region(error.details() or "")
    if error.code() is grpc.StatusCode.UNAVAILABLE and not words.startswith("fish_"):
        unsent = "failed to connect" in words
        refusal = not_connected() if unsent else connection_refusal(without_address(words))
        await context.abort(refusal.code, refusal.message, refusal.trailers)
    if full := of_the_server(words):
        await context.abort(full.code, words, full.trailers)
    await context.abort(error.code(), words)
