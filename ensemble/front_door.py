"""The whole waveform in one answer: a thin front door over a streaming ensemble.

For HTTP /infer, unary gRPC and load tests. Imports only in a server.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble import wire
from ensemble.cancel import PARAMETER, token_in
from ensemble.contract import MODELS

MAX_IN_FLIGHT = 256  # requests; more are refused at once


class FrontDoor:
    """Forwards every input to `stream_model` and joins the chunks that come back.

    Requests wait in threads, not in `execute`, so that one instance keeps many in flight.
    """

    name: str
    stream_model: str

    def initialize(self, args: dict) -> None:
        self.pool = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix=self.name)
        self.places = threading.Semaphore(MAX_IN_FLIGHT)

    def execute(self, requests: list) -> None:
        for request in requests:
            sender = request.get_response_sender()
            if self.places.acquire(blocking=False):
                self.pool.submit(self._answer, self._forwarded(request), sender)
            else:
                problem = RuntimeError(f"{MAX_IN_FLIGHT} requests are in flight, the limit.")
                _reply(sender, wire.error(self.name, problem, "UNAVAILABLE"))

    def finalize(self) -> None:
        self.pool.shutdown(wait=True)

    def _forwarded(self, request) -> pb_utils.InferenceRequest:
        # Copies: the tensors of a request are gone once execute has returned.
        inputs = [
            pb_utils.Tensor(t.name, np.array(values)[None])
            for t in MODELS[self.name].inputs
            if (values := wire.array(request, t.name)) is not None
        ]
        token = token_in(request.parameters())
        return pb_utils.InferenceRequest(
            model_name=self.stream_model,
            requested_output_names=[t.name for t in MODELS[self.stream_model].outputs],
            inputs=inputs,
            timeout=request.timeout(),
            parameters={} if token is None else {PARAMETER: token},
        )

    def _answer(self, request: pb_utils.InferenceRequest, sender) -> None:
        try:
            response = self._joined(request.exec(decoupled=True))
        except Exception as problem:
            response = wire.error(self.name, problem)
        _reply(sender, response)
        self.places.release()

    def _joined(self, responses) -> pb_utils.InferenceResponse:
        """Chunks may come in any order. The responses are read to their end on every path: an
        iterator that is left unread keeps the ensemble in flight for ever.
        """
        chunks, problem = [], None
        for response in responses:
            if response.has_error():
                problem = problem or response.error()
            elif response.output_tensors():
                chunks.append(_Chunk(response))
        if problem is not None:
            return wire.passed_on(problem)
        chunks.sort(key=lambda chunk: chunk.index)
        last = chunks[-1] if chunks else None
        if last is None or not last.finish_reason or last.index != len(chunks) - 1:
            raise RuntimeError(f"{self.stream_model} ended after {len(chunks)} chunks, unfinished")
        return pb_utils.InferenceResponse(
            [
                wire.tensor("audio", np.concatenate([c.audio for c in chunks]), np.float32),
                wire.tensor("finish_reason", [last.finish_reason], np.object_),
                wire.tensor("sample_rate", [last.sample_rate], np.int32),
            ]
        )


class _Chunk:
    """One response of the ensemble; audio float32 (num_samples,), padding cut off."""

    def __init__(self, response: pb_utils.InferenceResponse) -> None:
        values = {t.name(): t.as_numpy()[0] for t in response.output_tensors()}
        self.index = int(values["chunk_index"][0])
        self.audio = np.array(values["audio"][: int(values["num_samples"][0])])
        self.finish_reason = values["finish_reason"][0].decode()
        self.sample_rate = int(values["sample_rate"][0])


def _reply(sender, response: pb_utils.InferenceResponse) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
