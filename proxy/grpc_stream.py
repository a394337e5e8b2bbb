"""One ModelStreamInfer call: several requests, and their answers as they come."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import StatusCode
from grpc.aio import EOF, AioRpcError  # pyright: ignore[reportAttributeAccessIssue]

from ensemble.contract.errors import kind_in
from proxy.account import Account, log
from proxy.doors import SERVICE
from proxy.inference import WARNING, Ask, Proxy, elsewhere, look_at_message
from proxy.load import Asked, Load
from proxy.protobuf import pb, stream_error
from proxy.refusals import Refusal
from proxy.server import GRACE_S, connection_refusal, without_region

_CODES = {"INVALID_ARG": StatusCode.INVALID_ARGUMENT}  # where Triton's name is not gRPC's
_LONGEST_ERROR = 16_384  # bytes
_FINAL = "triton_final_response"


@dataclass
class _Part:
    """One request of a stream, from its arrival to its last answer."""

    account: Account
    ask: Ask | None = None
    asked: Asked | None = None

    @property
    def id(self) -> str:
        return self.account.id

    def end(self, load: Load, outcome: str, status: str) -> None:
        if self.asked is not None:
            load.end(self.asked)
        self.account.end(outcome, status)


class Stream:
    """Passes requests and answers on, each only as fast as the other side takes them."""

    def __init__(self, proxy: Proxy, context: Any, metadata: Any) -> None:
        self._proxy, self._context = proxy, context
        headers = dict(context.invocation_metadata() or ())
        self._headers, self._typed = headers, headers.get("triton_grpc_error") == "true"
        left_s = context.time_remaining()
        self._call: Any = proxy.server.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(
            timeout=None if left_s is None else left_s + GRACE_S, metadata=metadata
        )
        self._open: list[_Part] = []  # requests whose answers have not ended
        self._writing = asyncio.Lock()  # gRPC takes one message at a time
        self._fatal: Refusal | None = None
        self._lost = ""
        self._pending: Any = None  # the server's next answer

    async def run(self, requests: Any) -> None:
        """Until both sides have ended.

        Raises:
            Refusal, AioRpcError: What the call ends with.
        """
        forget = self._proxy.server.on_loss(self._lose)
        asking = asyncio.ensure_future(self._ask_all(requests))
        left, outcome, status = True, "done", "OK"
        asking.add_done_callback(_ended)
        try:
            await self._answer_all()
            left = False
        except asyncio.CancelledError:
            outcome, status, left = "left", "CANCELLED", not self._lost
            if self._lost:
                outcome, status = "failed", "UNAVAILABLE"
                raise connection_refusal(self._lost) from None
            raise
        except (Refusal, AioRpcError) as error:
            left = isinstance(error, Refusal) and error.left
            code = error.code if isinstance(error, Refusal) else error.code()
            outcome, status = "failed", code.name
            raise
        finally:
            forget()
            asking.cancel()
            if left:
                self._leave()
            for part in self._open:
                part.end(self._proxy.load, outcome, status)

    def _lose(self, why: str) -> None:
        self._lost = why
        self._call.cancel()

    def _leave(self) -> None:
        """Take the requests back; the call itself is read to its end."""
        for part in self._open:
            if part.ask is not None and part.ask.token:
                self._proxy.server.take_back(part.ask.token)
        self._proxy.server.abandon(self._rest(), self._call.cancel)

    async def _rest(self) -> None:
        await self._call.done_writing()
        while (await (self._pending or self._call.read())) is not EOF:
            self._pending = None

    async def _ask_all(self, requests: Any) -> None:
        """Pass the caller's requests on."""
        try:
            async for message in requests:
                part = _Part(Account("grpc", "ModelStreamInfer", self._proxy.metrics))
                part.account.sent = len(message)
                try:
                    await self._ask(message, part)
                except Refusal as refusal:
                    part.account.refused(refusal)
                    if refusal.reason in ("closing", "dead") and not self._open:
                        self._fatal = refusal
                        break
                    await self._refuse(refusal, part.id)
        finally:
            await uncancelled(self._call.done_writing())

    async def _ask(self, message: bytes, part: _Part) -> None:
        proxy = self._proxy
        proxy.server.require()
        ask = await elsewhere(look_at_message, len(message), proxy, message, self._headers)
        part.ask, part.account.id, part.account.model = ask, ask.id, ask.model
        if ask.warning:
            self._context.set_trailing_metadata(((WARNING, ask.warning),))
        part.asked = proxy.admit(ask, self._context.time_remaining())
        self._open.append(part)
        await uncancelled(self._call.write(ask.content))

    async def _refuse(self, refusal: Refusal, request_id: str) -> None:
        """Refuse one request as Triton does; the stream goes on."""
        if refusal.trailers:
            self._context.set_trailing_metadata(refusal.trailers)
        if self._typed:
            self._fatal = refusal
            await uncancelled(self._call.done_writing())
        else:
            await self._write(stream_error(refusal, request_id))

    async def _answer_all(self) -> None:
        while True:
            self._pending = self._pending or asyncio.ensure_future(self._call.read())
            answer = await asyncio.shield(self._pending)
            self._pending = None
            if answer is EOF:
                break
            self._look_at(answer)
            await self._write(_without_region(answer))
            if self._fatal is not None and self._typed:
                raise self._fatal
        if self._fatal is not None:
            raise self._fatal

    async def _write(self, answer: bytes) -> None:
        slow_s = self._proxy.settings.slow_reader_s
        async with self._writing:
            try:
                await asyncio.wait_for(self._context.write(answer), slow_s)
            except asyncio.TimeoutError:
                raise Refusal(
                    "slow", f"proxy: nothing was read for {slow_s:g} s", StatusCode.ABORTED
                ) from None

    def _look_at(self, message: bytes) -> None:
        """See which request is answered, and whether that was the end of it."""
        answer = pb.ModelStreamInferResponse.FromString(message)
        reply, problem = answer.infer_response, answer.error_message
        if not self._open:
            return
        part = next((o for o in self._open if reply.id == o.id), self._open[0])
        part.account.got += len(message)
        if problem:
            self._proxy.server.heard(part.account.model, problem)
            if self._typed:
                self._fatal = _typed(problem)
        elif reply.outputs and part.asked is not None:
            self._proxy.load.answered(part.asked)
        if problem or _is_last(reply):
            self._open.remove(part)
            status = kind_in(problem).code if problem else "OK"
            part.end(self._proxy.load, "failed" if problem else "done", status)


def _ended(task: asyncio.Future[None]) -> None:
    """Say in the log why requests are read no more, unless the call has ended."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, grpc.RpcError | asyncio.InvalidStateError):
        log.error(json.dumps({"event": "a stream's requests ended", "why": repr(error)[:500]}))


def _typed(problem: str) -> Refusal:
    name = kind_in(problem).code
    code = _CODES.get(name) or getattr(StatusCode, name)
    return Refusal("server", problem, code)


def _without_region(message: bytes) -> bytes:
    """An answer that does not name the server's shared memory; audio is not looked at."""
    if len(message) > _LONGEST_ERROR or b"voicereel_" not in message:
        return message
    answer = pb.ModelStreamInferResponse.FromString(message)
    answer.error_message = without_region(answer.error_message)
    return answer.SerializeToString()


def _is_last(reply: Any) -> bool:
    if reply.parameters[_FINAL].bool_param:
        return True
    for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=False):
        if output.name == "is_last":
            return raw == b"\x01"
    return False


async def uncancelled(work: Any) -> Any:
    """Await what must not be cancelled: gRPC would cancel its call with it."""
    return await asyncio.shield(asyncio.ensure_future(work))
