"""A gRPC server in this process that answers as a test says: every way a stream can go wrong."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

from voicereel.transport.base import from_raw, raw_bytes

pb: Any = service_pb2
RATE_HZ = 44_100
PADDED = 64  # samples of every chunk on the wire


class Refusal(Exception):
    """Raised by an answer: what Triton's models do with a TritonError."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers each request with what `answer(inputs)` yields: dicts of outputs.

    Attributes:
        answer: To be set by the test.
        requests: What came, as protobuf.
        metadata: Key and value of all metadata that came with calls.
        cancelled: Set when a stream is cancelled, by `fish_cancel` or its call, before its end.
        not_ready: Models that are not ready.
        facts: What fish_checkpoint tells; None: there is no such model. Not among `requests`.
    """

    def __init__(
        self, port: int = 0, credentials: grpc.ServerCredentials | None = None,
        host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.answer: Callable[[dict[str, np.ndarray]], Iterator[dict[str, np.ndarray]]]
        self.requests: list[Any] = []
        self.metadata: list[tuple[str, str]] = []
        self.cancelled, self.not_ready = threading.Event(), set()
        self.taken_back: set[str] = set()
        self.facts: dict[str, Any] | None = None
        self._server = grpc.server(
            ThreadPoolExecutor(32),
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        if credentials:  # else it speaks no TLS
            port = self._server.add_secure_port(f"{host}:{port}", credentials)
        else:
            port = self._server.add_insecure_port(f"{host}:{port}")
        self.url = f"{host}:{port}"

    def __enter__(self) -> "FakeServer":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:
        return pb.ModelReadyResponse(ready=request.name not in self.not_ready)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.metadata += context.invocation_metadata()
        if request.model_name == "fish_cancel":
            self.requests.append(request)
            self.taken_back.add(inputs_of(request)["cancel_token"].item().decode())
            return _answer({"cancelled": np.array([[True]])})
        if request.model_name == "fish_checkpoint":
            if self.facts is None:
                unknown = "Request for unknown model: 'fish_checkpoint' is not found"
                return context.abort(grpc.StatusCode.NOT_FOUND, unknown)
            told = np.array([[json.dumps(self.facts).encode()]], np.object_)
            return _answer({"checkpoint": told})
        try:
            return _answer(next(self._outputs(request)))
        except Refusal as refusal:
            return context.abort(refusal.status, str(refusal))

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        finished = threading.Event()
        self.metadata += context.invocation_metadata()
        context.add_callback(lambda: finished.is_set() or self.cancelled.set())
        for request in request_iterator:
            try:
                for outputs in self._outputs(request):
                    if request.parameters["cancel_token"].string_param in self.taken_back:
                        self.cancelled.set()
                        break
                    yield pb.ModelStreamInferResponse(infer_response=_answer(outputs))
            except Refusal as refusal:  # on a stream, Triton's errors have no status
                if not str(refusal):  # what ends the call itself has no words
                    context.abort(refusal.status, "")
                yield pb.ModelStreamInferResponse(error_message=str(refusal))
        finished.set()

    def _outputs(self, request: Any) -> Iterator[dict[str, np.ndarray]]:
        self.requests.append(request)
        return self.answer(inputs_of(request))


def _answer(outputs: dict[str, np.ndarray]) -> Any:
    answer = pb.ModelInferResponse()
    for name, array in outputs.items():
        answer.outputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        answer.raw_output_contents.append(raw_bytes(array))
    return answer


def inputs_of(request: Any) -> dict[str, np.ndarray]:
    """The tensors of a request, decoded."""
    return {
        tensor.name: from_raw(tensor.datatype, tensor.shape, raw)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def chunk(index: int, *, samples: int = 50, is_last: bool = False) -> dict[str, np.ndarray]:
    """A chunk whose valid samples all have the value of its index; the padding is NaN."""
    audio = np.full((1, PADDED), np.nan, np.float32)
    audio[:, :samples] = index
    return {
        "audio": audio,
        "chunk_index": np.array([[index]], np.int32),
        "num_samples": np.array([[samples]], np.int32),
        "is_last": np.array([[is_last]]),
        "finish_reason": np.array([[b"stop" if is_last else b""]], np.object_),
        "sample_rate": np.array([[RATE_HZ]], np.int32),
    }


def whole(audio: np.ndarray) -> dict[str, np.ndarray]:
    """The answer of a unary front door."""
    return {
        "audio": audio[None].astype(np.float32),
        "finish_reason": np.array([[b"stop"]], np.object_),
        "sample_rate": np.array([[RATE_HZ]], np.int32),
    }
