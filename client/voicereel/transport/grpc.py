"""gRPC: unary and streamed responses over one channel."""

import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from voicereel.caller import current_caller
from voicereel.errors import Cancelled, DeadlineExceeded, VoiceReelError, error_for
from voicereel.transport.address import Address
from voicereel.transport.base import Tensors, from_raw, raw_bytes
from voicereel.transport.channel import Channel, in_flight
from voicereel.transport.repeats import NoConnection, Repeats

_pb: Any = service_pb2  # its classes are created at import, so type checkers do not see them
# How gRPC says that a call failed by its connection; a server's own UNAVAILABLE has other words.
_UNSENT = re.compile("failed to connect to all addresses|errors resolving|DNS resolution failed")
_BROKEN = re.compile(
    "Socket closed|Connection reset|Broken pipe|Stream removed|GOAWAY|Connection timed out|"
    "Endpoint closing|end of TCP stream",
    re.IGNORECASE,
)
# Cancelling a call in the moment when it ends can crash the server (Triton 24.05 to 25.03, fixed by
# its pull request 8078). That moment is likely when client and server have the same timeout, and
# after `fish_cancel`. So an abandoned call is left to end by itself, and is cancelled only so many
# seconds after its timeout.
_GRACE_S = 60
Result = TypeVar("Result")
_CLOSING_S = 2  # seconds that `close` waits at most for abandoned calls to end


class GrpcTransport:
    """One channel and the generated stub.

    It does without tritonclient's InferenceServerClient, which allows one stream at a time and
    leaks a thread when a stream is cancelled (tritonclient 2.50).
    """

    def __init__(self, address: Address, return_s: float) -> None:
        """Prepare a connection; `return_s` as in `Client`."""
        self._address, self._channel = address, Channel(address)
        self._return_s = return_s
        self._reached = False  # whether this server has ever answered
        self._abandoned: dict[Any, threading.Event] = {}

    def infer(self, model: str, inputs: Tensors, timeout_s: float) -> Tensors:
        return self._repeated(
            lambda stub, left_s: self._infer(stub, model, inputs, left_s), timeout_s
        )

    def _infer(self, stub: Any, model: str, inputs: Tensors, timeout_s: float) -> Tensors:
        request = _request(model, inputs, timeout_s)
        metadata = current_caller().metadata
        call = stub.ModelInfer.future(request, timeout=timeout_s + _GRACE_S, metadata=metadata)
        try:
            with in_flight():
                return _tensors(call.result(timeout_s))
        except grpc.FutureTimeoutError:
            self._abandon(call)
            raise DeadlineExceeded(f"no answer from {model} in {timeout_s:g} s") from None
        except grpc.RpcError as error:
            raise _typed(error) from None

    def _repeated(
        self, attempt: Callable[[Any, float], Result], timeout_s: float, patient: bool = True
    ) -> Result:
        """Run `attempt(stub, seconds left)` until it gets through, as `Repeats` allows."""
        return_s = self._return_s if patient and self._reached else 0
        repeats = Repeats(self._address, return_s, timeout_s)
        while True:
            stub = self._channel.stub()
            try:
                result = attempt(stub, repeats.left_s)
            except NoConnection as problem:
                repeats.or_raise(problem)
                self._channel.renew(stub)
            else:
                self._reached = True
                return result

    def stream(self, model: str, inputs: Tensors, timeout_s: float) -> Generator[Tensors]:
        def begun(stub: Any, left_s: float) -> tuple[Generator[Tensors], Tensors | None]:
            responses = self._stream(stub, model, inputs, left_s)
            return responses, next(responses, None)

        # Until the first response the call may be sent again.
        responses, first = self._repeated(begun, timeout_s)
        with closing(responses):
            try:
                if first is not None:
                    yield first
                    yield from responses
            except NoConnection as problem:
                Repeats(self._address, 0, 0).or_raise(problem, audio_came=True)

    def _stream(
        self, stub: Any, model: str, inputs: Tensors, timeout_s: float
    ) -> Generator[Tensors]:
        deadline, process = time.monotonic() + timeout_s, os.getpid()
        request = _request(model, inputs, timeout_s)
        # Without the header "triton_grpc_error" errors have no status, but with it tritonserver
        # 2.51 crashes after some tens of errors.
        caller, timeout = current_caller(), timeout_s + _GRACE_S
        call = stub.ModelStreamInfer(iter([request]), timeout, caller.metadata)
        # A thread reads responses as they arrive, so that a slow consumer delays neither the server
        # nor the deadline.
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(call, arrived), daemon=True).start()
        ended = False
        stay = caller.on_leave(lambda: arrived.put(Cancelled("the caller has left")))
        try:
            while (reply := self._next(arrived, deadline)) is not None:
                if isinstance(reply, VoiceReelError):
                    raise reply
                if isinstance(reply, grpc.RpcError):
                    raise _typed(reply)
                if reply.error_message:
                    raise error_for("", reply.error_message)
                yield _tensors(reply.infer_response)
            ended = True
        except queue.Empty:
            raise DeadlineExceeded(f"{model} had not ended after {timeout_s:g} s") from None
        finally:
            stay()
            if not ended and process == os.getpid():  # a fork leaves the call to the parent
                self._cancel(request)
                self._abandon(call)

    def _next(self, arrived: queue.SimpleQueue[Any], deadline: float) -> Any:
        self._channel.stub()  # refuses after a fork, in whose child no thread would read
        return arrived.get(timeout=max(0, deadline - time.monotonic()))

    def _cancel(self, request: Any) -> None:
        """Free the request's slot by `fish_cancel`; Triton tells no model that a client left."""
        token = request.parameters["cancel_token"].string_param
        cancel = _request("fish_cancel", {"cancel_token": np.array([[token.encode()]], np.object_)})
        self._abandon(self._channel.stub().ModelInfer.future(cancel, timeout=_GRACE_S))

    def _abandon(self, call: Any) -> None:
        """Let a call end by itself; keep it until then, since gRPC cancels a call without owner."""
        ended = threading.Event()

        def end() -> None:
            ended.set()
            self._abandoned.pop(call, None)

        self._abandoned[call] = ended
        if not call.add_callback(end):  # False: it has ended
            end()

    def is_ready(self, model: str | None, timeout_s: float) -> bool:
        def asked(stub: Any, left_s: float) -> bool:
            call, request = (
                (stub.ServerReady, _pb.ServerReadyRequest())
                if model is None
                else (stub.ModelReady, _pb.ModelReadyRequest(name=model))
            )
            try:
                with in_flight():
                    return call(request, timeout=left_s).ready
            except grpc.RpcError as error:
                raise _typed(error) from None

        return self._repeated(asked, timeout_s, patient=False)  # says what is so now

    def close(self) -> None:
        if self._channel.is_inherited:
            return
        deadline = time.monotonic() + _CLOSING_S
        for ended in list(self._abandoned.values()):
            ended.wait(max(0, deadline - time.monotonic()))
        self._channel.close()


def _read(call: Any, arrived: queue.SimpleQueue[Any]) -> None:
    """Queue every response of a call, its error if any, and None for its end."""
    try:
        with in_flight():
            for response in call:
                arrived.put(response)
    except grpc.RpcError as error:
        arrived.put(error)
    finally:
        arrived.put(None)


def _request(model: str, inputs: Tensors, timeout_s: float = 0) -> Any:
    request_id = current_caller().request_id or str(uuid.uuid4())
    request = _pb.ModelInferRequest(model_name=model, id=request_id)
    if timeout_s:  # in us; Triton applies it in its queues, the models while generating
        request.parameters["timeout"].int64_param = int(timeout_s * 1e6)
        request.parameters["cancel_token"].string_param = uuid.uuid4().hex
    for name, array in inputs.items():
        datatype = np_to_triton_dtype(array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw_bytes(array))
    return request


def _tensors(response: Any) -> Tensors:
    return {
        output.name: from_raw(output.datatype, output.shape, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _typed(error: Any) -> VoiceReelError | NoConnection:
    # debug_error_string() would block for ever after a local cancel (grpcio 1.85).
    status, message = error.code().name, error.details() or error.code().name
    if status == "UNAVAILABLE" and _UNSENT.search(message):
        return NoConnection(message, sent=False)
    if status == "UNAVAILABLE" and _BROKEN.search(message):
        return NoConnection(message, sent=True)
    return error_for(status, message)
