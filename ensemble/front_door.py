"""The models that callers talk to, over the streaming ensembles.

They put chunks in order, cut the padding off, and let a caller leave (`ensemble.cancel`).
Imports only in a server.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble import wire
from ensemble.cancel import PARAMETER, CancelToken
from ensemble.contract import MODELS

MAX_IN_FLIGHT = 256  # requests; more are refused at once


class EnsembleError(RuntimeError):
    """The ensemble answered with an error, which is passed on as it is."""

    def __init__(self, problem: pb_utils.TritonError) -> None:
        super().__init__(problem.message())
        self.problem = problem


class CancelledError(RuntimeError):
    """The caller has left."""


@dataclass(frozen=True)
class Chunk:
    """One response of the ensemble; audio float32 (num_samples,), padding cut off."""

    index: int
    audio: np.ndarray
    finish_reason: str
    sample_rate: int

    @classmethod
    def of(cls, response: pb_utils.InferenceResponse) -> Chunk:
        values = {t.name(): t.as_numpy()[0] for t in response.output_tensors()}
        return cls(
            int(values["chunk_index"][0]),
            np.array(values["audio"][: int(values["num_samples"][0])]),
            values["finish_reason"][0].decode(),
            int(values["sample_rate"][0]),
        )


class FrontDoor:
    """Requests wait in threads, not in `execute`, so that one instance keeps many in flight."""

    name: str
    ensemble: str

    def initialize(self, args: dict) -> None:
        self.pool = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix=self.name)
        self.places = threading.Semaphore(MAX_IN_FLIGHT)

    def execute(self, requests: list) -> None:
        for request in requests:
            sender = request.get_response_sender()
            if not self.places.acquire(blocking=False):
                problem = RuntimeError(f"{MAX_IN_FLIGHT} requests are in flight, the limit.")
                finish(sender, wire.error(self.name, problem, "UNAVAILABLE"))
                continue
            try:
                token = CancelToken(request.parameters())
                self.pool.submit(self._serve, self._forwarded(request, token), sender, token)
            except Exception as problem:
                self.places.release()
                finish(sender, wire.error(self.name, problem))

    def finalize(self) -> None:
        self.pool.shutdown(wait=True)

    def _answer(self, chunks: Iterator[Chunk], sender) -> pb_utils.InferenceResponse:
        """Consume the chunks and return the response that ends the request."""
        raise NotImplementedError

    def _forwarded(self, request, token: CancelToken) -> pb_utils.InferenceRequest:
        # Copies: the tensors of a request are gone once execute has returned.
        inputs = [
            pb_utils.Tensor(t.name, np.array(values)[None])
            for t in MODELS[self.name].inputs
            if (values := wire.array(request, t.name)) is not None
        ]
        return pb_utils.InferenceRequest(
            model_name=self.ensemble,
            requested_output_names=[t.name for t in MODELS[self.ensemble].outputs],
            inputs=inputs,
            timeout=request.timeout(),
            parameters={PARAMETER: token.name},
        )

    def _serve(self, request: pb_utils.InferenceRequest, sender, token: CancelToken) -> None:
        """One request, in a thread of its own."""
        try:
            response = self._answer(self._chunks(request.exec(decoupled=True), token), sender)
        except EnsembleError as error:
            response = wire.passed_on(error.problem)
        except CancelledError as problem:
            response = wire.error(self.name, problem, "CANCELLED")
        except Exception as problem:
            response = wire.error(self.name, problem)
        token.take_back()
        finish(sender, response)
        self.places.release()

    def _chunks(self, responses, token: CancelToken) -> Iterator[Chunk]:
        """Chunks in order.

        The responses are read to their end on every path: an iterator that is left unread keeps
        the ensemble in flight for ever.
        """
        early: dict[int, Chunk] = {}
        expected, problem, last, gone = 0, None, None, False
        for response in responses:
            if response.has_error():
                problem = problem or response.error()
                gone = gone or token.taken_back
                token.take_back()  # the engine need not go on for a stream with a hole in it
            elif response.output_tensors():
                chunk = Chunk.of(response)
                early[chunk.index] = chunk
            while expected in early and problem is None:
                last = early.pop(expected)
                expected += 1
                yield last
        if gone:
            raise CancelledError("by the caller")
        if problem is not None:
            raise EnsembleError(problem)
        if last is None or not last.finish_reason:
            raise RuntimeError(f"{self.ensemble} ended after {expected} chunks, unfinished")


class UnaryFrontDoor(FrontDoor):
    """One answer with everything."""

    def _answer(self, chunks: Iterator[Chunk], sender) -> pb_utils.InferenceResponse:
        received = list(chunks)
        last = received[-1]
        return pb_utils.InferenceResponse(
            [
                wire.tensor("audio", np.concatenate([c.audio for c in received]), np.float32),
                wire.tensor("finish_reason", [last.finish_reason], np.object_),
                wire.tensor("sample_rate", [last.sample_rate], np.int32),
            ]
        )


class StreamingFrontDoor(FrontDoor):
    """A response per chunk; the last one ends the stream."""

    def _answer(self, chunks: Iterator[Chunk], sender) -> pb_utils.InferenceResponse:
        last = None
        for chunk in chunks:
            if chunk.finish_reason:
                last = chunk  # goes out with FINAL, once the ensemble has ended too
            else:
                sender.send(_chunk_response(chunk))
        assert last is not None  # `_chunks` has seen to it
        return _chunk_response(last)


def _chunk_response(chunk: Chunk) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(
        [
            wire.tensor("audio", chunk.audio, np.float32),
            wire.tensor("chunk_index", [chunk.index], np.int32),
            wire.tensor("num_samples", [len(chunk.audio)], np.int32),
            wire.tensor("is_last", [bool(chunk.finish_reason)], np.bool_),
            wire.tensor("finish_reason", [chunk.finish_reason], np.object_),
            wire.tensor("sample_rate", [chunk.sample_rate], np.int32),
        ]
    )


def finish(sender, response: pb_utils.InferenceResponse) -> None:
    """Send the last response of a request, which closes its stream."""
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
