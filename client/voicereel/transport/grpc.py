"""gRPC: unary and streamed responses over one channel."""

import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Generator
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from voicereel.caller import current_caller
from voicereel.errors import Cancelled, DeadlineExceeded, ServerError, VoiceReelError, error_for
from voicereel.transport.address import Address
from voicereel.transport.base import MAX_RESPONSE_BYTES, Tensors, answered, raw_bytes
from voicereel.transport.channel import Channel, in_flight
from voicereel.transport.repeats import NoConnection

_pb: Any = service_pb2  # its classes are created at import, so type checkers do not see them
# How gRPC says that a call failed by its connection; a server's own UNAVAILABLE has other words.
_UNSENT = re.compile("failed to connect to all addresses|errors resolving|DNS resolution failed")
_BROKEN = re.compile(
    "Socket closed|Connection reset|Broken pipe|Stream removed|GOAWAY|Connection timed out|"
    "Endpoint closing|end of TCP stream|http2 header with status: 502|RST_STREAM",
    re.IGNORECASE,
)
# Cancelling a call in the moment when it ends can crash the server (Triton 24.05 to 25.03, fixed by
# its pull request 8078). That moment is likely when client and server have the same timeout, and
# after `fish_cancel`. So an abandoned call is left to end by itself, and is cancelled only so many
# seconds after its timeout.
_GRACE_S = 60
_MILLISECONDS = re.compile(r"\d{1,9}", re.ASCII)
_OVERHEAD_BYTES = 1024  # of a response in memory, beside its content
_CLOSING_S = 2  # seconds that `close` waits at most for abandoned calls to end


class GrpcTransport:
    """One channel and the generated stub.

    It does without tritonclient's InferenceServerClient, which allows one stream at a time and
    leaks a thread when a stream is cancelled (tritonclient 2.50).
    """

    def __init__(self, address: Address) -> None:
        """Prepare a connection, which is made with the first call."""
        self._channel = Channel(address)
        self._abandoned: dict[Any, threading.Event] = {}

    def infer(self, model: str, inputs: Tensors, timeout_s: float, request_id: str) -> Tensors:
        stub, request = self._channel.stub(), _request(model, inputs, request_id, timeout_s)
        call = stub.ModelInfer.future(
            request, timeout=timeout_s + _GRACE_S, metadata=current_caller().metadata
        )
        try:
            with in_flight():
                return _tensors(call.result(timeout_s))
        except grpc.FutureTimeoutError:
            self._abandon(call)
            raise DeadlineExceeded(f"no answer from {model} in {timeout_s:g} s") from None
        except grpc.FutureCancelledError:
            raise Cancelled(f"{model}: the client was closed") from None
        except grpc.RpcError as error:
            raise self._typed(error, stub) from None

    def stream(
        self, model: str, inputs: Tensors, timeout_s: float, request_id: str
    ) -> Generator[Tensors]:
        deadline, process = time.monotonic() + timeout_s, os.getpid()
        stub, request = self._channel.stub(), _request(model, inputs, request_id, timeout_s)
        # Without the header "triton_grpc_error" errors have no status, but with it tritonserver
        # 2.51 crashes after some tens of errors.
        caller, timeout = current_caller(), timeout_s + _GRACE_S
        call = stub.ModelStreamInfer(iter([request]), timeout, caller.metadata)
        # A thread reads responses as they arrive, so that a slow consumer delays neither the server
        # nor the deadline.
        arrived = _Arrived()
        threading.Thread(target=arrived.read, args=(call,), daemon=True).start()
        ended = False
        stay = caller.on_leave(lambda: arrived.queue.put(Cancelled("the caller has left")))
        try:
            while (reply := self._next(arrived, deadline)) is not None:
                if isinstance(reply, VoiceReelError):
                    raise reply
                if isinstance(reply, grpc.RpcError):
                    raise self._typed(reply, stub)
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

    def _next(self, arrived: "_Arrived", deadline: float) -> Any:
        self._channel.stub()  # refuses after a fork, in whose child no thread would read
        return arrived.next(max(0, deadline - time.monotonic()))

    def _cancel(self, request: Any) -> None:
        """Free the request's slot by `fish_cancel`; Triton tells no model that a client left."""
        token = request.parameters["cancel_token"].string_param
        inputs = {"cancel_token": np.array([[token.encode()]], np.object_)}
        cancel = _request("fish_cancel", inputs, request.id)
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
        stub = self._channel.stub()
        call, request = (
            (stub.ServerReady, _pb.ServerReadyRequest())
            if model is None
            else (stub.ModelReady, _pb.ModelReadyRequest(name=model))
        )
        try:
            with in_flight():
                return call(request, timeout=timeout_s).ready
        except grpc.RpcError as error:
            raise self._typed(error, stub) from None

    def _typed(self, error: Any, stub: Any) -> VoiceReelError | NoConnection:
        typed = _typed(error)
        if isinstance(typed, NoConnection):
            self._channel.renew(stub)
        return typed

    def close(self) -> None:
        if self._channel.is_inherited:
            return
        deadline = time.monotonic() + _CLOSING_S
        for ended in list(self._abandoned.values()):
            ended.wait(max(0, deadline - time.monotonic()))
        self._channel.close()


class _Arrived:
    """What has come of a call and was not read; bounded, whatever the server sends."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._came = self._read = 0  # bytes; each is counted by one thread

    def read(self, call: Any) -> None:
        """Queue every response of a call, its error if any, and None for its end."""
        try:
            with in_flight():
                for response in call:
                    self._came += response.ByteSize() + _OVERHEAD_BYTES
                    if self._came - self._read > MAX_RESPONSE_BYTES:
                        self.queue.put(
                            ServerError(f"more than {MAX_RESPONSE_BYTES} bytes came and wait")
                        )
                        return
                    self.queue.put(response)
        except grpc.RpcError as error:
            self.queue.put(error)
        finally:
            self.queue.put(None)

    def next(self, timeout_s: float) -> Any:
        """The next one; `queue.Empty` if there is none in time."""
        response = self.queue.get(timeout=timeout_s)
        if isinstance(response, Message):
            self._read += response.ByteSize() + _OVERHEAD_BYTES
        return response


def _request(model: str, inputs: Tensors, request_id: str, timeout_s: float = 0) -> Any:
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
    outputs, raws = response.outputs, response.raw_output_contents
    if len(outputs) != len(raws):
        raise ServerError(f"the response has {len(outputs)} outputs, but values of {len(raws)}")
    return {
        output.name: answered(output.name, output.datatype, output.shape, raw)
        for output, raw in zip(outputs, raws, strict=True)
    }


def _typed(error: Any) -> VoiceReelError | NoConnection:
    # debug_error_string() would block for ever after a local cancel (grpcio 1.85).
    status, message = error.code().name, error.details() or error.code().name
    if status == "UNAVAILABLE" and _UNSENT.search(message):
        return NoConnection(message, sent=False)
    if status in ("UNAVAILABLE", "INTERNAL") and _BROKEN.search(message):
        return NoConnection(message, sent=True)
    if status == "CANCELLED" and not error.details():  # by something on the way: not by us
        return NoConnection(message, sent=True, final=error_for(status, message))
    return error_for(status, message, _retry_after_s(error))


def _retry_after_s(error: Any) -> float:
    """What the server's trailing metadata says about another try; 0: nothing."""
    said = [value for key, value in error.trailing_metadata() or () if key == "retry-after-ms"]
    is_count = said and isinstance(said[0], str) and _MILLISECONDS.fullmatch(said[0])
    return int(said[0]) / 1000 if is_count else 0.0
