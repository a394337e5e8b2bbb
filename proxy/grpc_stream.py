"""One ModelStreamInfer call: several requests, and their answers as they come."""

import asyncio
from typing import Any

from grpc import StatusCode
from grpc.aio import EOF  # pyright: ignore[reportAttributeAccessIssue]

from ensemble.contract.errors import kind_in
from proxy.account import Account
from proxy.doors import SERVICE
from proxy.inference import Ask, Proxy, elsewhere, look_at_message, shorter
from proxy.load import Asked
from proxy.protobuf import pb, stream_error
from proxy.refusals import Refusal
from proxy.server import GRACE_S, connection_refusal

_CODES = {"INVALID_ARG": StatusCode.INVALID_ARGUMENT}  # where Triton's name is not gRPC's
_FINAL = "triton_final_response"


class Stream:
    """Passes requests and answers on, each only as fast as the other side takes them."""

    def __init__(self, proxy: Proxy, context: Any, account: Account, metadata: Any) -> None:
        self._proxy, self._context, self._account = proxy, context, account
        headers = dict(context.invocation_metadata() or ())
        self._headers, self._typed = headers, headers.get("triton_grpc_error") == "true"
        left_s = context.time_remaining()
        self._call: Any = proxy.server.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(
            timeout=None if left_s is None else left_s + GRACE_S, metadata=metadata
        )
        self._open: list[tuple[Ask, Asked]] = []  # requests whose answers have not ended
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
        asking, ended = asyncio.ensure_future(self._ask_all(requests)), False
        asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await self._answer_all()
            ended = True
        except asyncio.CancelledError:
            if self._lost:
                ended = True
                raise connection_refusal(self._lost) from None
            raise
        finally:
            forget()
            asking.cancel()
            if not ended:
                self._leave()
            for _, asked in self._open:
                self._proxy.load.end(asked)

    def _lose(self, why: str) -> None:
        self._lost = why
        self._call.cancel()

    def _leave(self) -> None:
        """Take the requests back; the call itself is read to its end."""
        for ask, _ in self._open:
            if ask.token:
                self._proxy.server.take_back(ask.token)
        self._proxy.server.abandon(self._rest(), self._call.cancel)

    async def _rest(self) -> None:
        await self._call.done_writing()
        while (await (self._pending or self._call.read())) is not EOF:
            self._pending = None

    async def _ask_all(self, requests: Any) -> None:
        """Pass the caller's requests on."""
        try:
            async for message in requests:
                self._account.sent += len(message)
                try:
                    await self._ask(message)
                except Refusal as refusal:
                    if refusal.reason in ("closing", "dead") and not self._open:
                        self._fatal = refusal
                        break
                    await self._refuse(refusal)
        finally:
            await uncancelled(self._call.done_writing())

    async def _ask(self, message: bytes) -> None:
        proxy = self._proxy
        proxy.server.require()
        self._refused_id = ""
        ask = await elsewhere(look_at_message, len(message), proxy, message, self._headers)
        self._refused_id = ask.id
        self._account.id, self._account.model = self._account.id or ask.id, ask.model
        left_s = shorter(self._context.time_remaining(), ask.timeout_s)
        self._open.append((ask, proxy.load.admit(ask.model, ask.units, left_s)))
        await uncancelled(self._call.write(ask.content))

    async def _refuse(self, refusal: Refusal) -> None:
        """Refuse one request as Triton does; the stream goes on."""
        self._proxy.metrics.refused(refusal.reason)
        if refusal.trailers:
            self._context.set_trailing_metadata(refusal.trailers)
        if self._typed:
            self._fatal = refusal
            await uncancelled(self._call.done_writing())
        else:
            await self._write(stream_error(refusal, self._refused_id))

    async def _answer_all(self) -> None:
        while True:
            self._pending = self._pending or asyncio.ensure_future(self._call.read())
            answer = await asyncio.shield(self._pending)
            self._pending = None
            if answer is EOF:
                break
            self._look_at(answer)
            await self._write(answer)
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
        self._account.got += len(answer)

    def _look_at(self, message: bytes) -> None:
        """See which request is answered, and whether that was the end of it."""
        answer = pb.ModelStreamInferResponse.FromString(message)
        reply, problem = answer.infer_response, answer.error_message
        if not self._open:
            return
        found = next((o for o in self._open if reply.id == o[0].id), self._open[0])
        ask, asked = found
        if problem:
            self._proxy.server.heard(ask.model, problem)
            if self._typed:
                self._fatal = _typed(problem)
        elif reply.outputs:
            self._proxy.load.answered(asked)
        if problem or _is_last(reply):
            self._open.remove(found)
            self._proxy.load.end(asked)


def _typed(problem: str) -> Refusal:
    name = kind_in(problem).code
    code = _CODES.get(name) or getattr(StatusCode, name)
    return Refusal("server", problem, code)


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
