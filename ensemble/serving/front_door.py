"""A unary front door: forwards to a streaming ensemble and answers with the whole waveform.

For HTTP /infer, unary gRPC and load tests. It reaches the ensemble as any client does, through
the server's own gRPC port: with Triton's calls between models (BLS) the Python process died or hung
after about a hundred streams. It does not ask whether its caller has left: in a model that is not
decoupled, that question crashes the server (both in Triton 24.10). Imports only in a server.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from grpc import RpcError
from grpc.aio import AioRpcError
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from ensemble.contract.errors import CancelledError, OverloadedError
from ensemble.contract.options import LONGEST_CHUNK, OPTIONS
from ensemble.contract.parameters import timeout_us
from ensemble.contract.tensors import MODELS
from ensemble.serving import own_server, wire
from ensemble.serving.cancel import PARAMETER

_GIVEN_UP = {"cancelled": "by the caller", "timeout": "its timeout has passed"}
_FIRST, _LONGEST = "first_chunk_frames", "max_chunk_frames"
MAX_IN_FLIGHT = 256  # requests, as many as the queues of config.pbtxt; more are refused at once


class FrontDoor:
    """Forwards every input to `stream_model` and joins the chunks that come back.

    `execute` returns at once and an event loop waits for the chunks, so that one instance keeps
    many requests in flight.

    Attributes:
        name: The model that this is.
        stream_model: The ensemble it forwards to.
    """

    name: str
    stream_model: str

    def initialize(self, args: dict) -> None:
        own_server.end_with_it()
        self.in_flight: set[asyncio.Task] = set()
        self.closing = False
        self.places = threading.Semaphore(MAX_IN_FLIGHT)
        self.loop = asyncio.new_event_loop()
        self.client: InferenceServerClient | None = None
        self.thread = threading.Thread(target=self.loop.run_forever, name=self.name, daemon=True)
        self.thread.start()

    def execute(self, requests: list) -> None:
        for request in requests:
            sender = request.get_response_sender()
            if not self.places.acquire(blocking=False):
                problem = OverloadedError(f"{MAX_IN_FLIGHT} requests are in flight, the limit.")
                _reply(sender, wire.error(self.name, problem, request.request_id()))
                continue
            try:
                forwarded = self._forwarded(request)
            except Exception as problem:
                self.places.release()
                _reply(sender, wire.error(self.name, problem, request.request_id()))
                continue
            asyncio.run_coroutine_threadsafe(
                self._answer(forwarded, _trace_of(request), sender), self.loop
            )

    def finalize(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    async def _close(self) -> None:
        self.closing, tasks = True, list(self.in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)  # each tells its caller before the loop stops
        if self.client is not None:
            await self.client.close()

    def _forwarded(self, request) -> dict:
        """Arguments for tritonclient; tensors are copied, as Triton frees them after `execute`."""
        asked, inputs = wire.Accepted(self.name, request, complete=False), []
        token = asked.parameters.get(PARAMETER)
        for t in MODELS[self.name].inputs:
            if (values := asked.arrays[t.name]) is not None:
                inputs.append(_input(t.name, t.dtype, np.array(values)))
            elif t.name == _FIRST:
                inputs.append(_first_chunk(asked.arrays[_LONGEST]))
        return {
            "model_name": self.stream_model,
            "request_id": request.request_id(),  # so that each step's log names it
            "inputs": inputs,
            "timeout": timeout_us(request.timeout(), asked.parameters) or None,
            "parameters": None if token is None else {PARAMETER: token},
        }

    async def _answer(self, forwarded: dict, trace: dict[str, str], sender) -> None:
        task: Any = asyncio.current_task()
        self.in_flight.add(task)
        try:
            response = await self._joined(forwarded, trace)
        except asyncio.CancelledError:
            why = (
                "the server is shutting down" if self.closing else f"{self.stream_model} broke off"
            )
            response = wire.error(self.name, RuntimeError(why), forwarded["request_id"])
        except Exception as problem:
            response = wire.error(self.name, problem, forwarded["request_id"])
        finally:
            self.in_flight.discard(task)
            self.places.release()
        _reply(sender, response)

    async def _joined(self, forwarded: dict, trace: dict[str, str]) -> pb_utils.InferenceResponse:
        """Collect the chunks, which may arrive in any order, and join them."""
        if self.client is None:  # not earlier: the server opens its ports after loading models
            self.client = InferenceServerClient(
                own_server.grpc_url(), channel_args=own_server.CHANNEL_ARGS
            )
        chunks = []
        answers: Any = self.client.stream_infer(  # typed as None by mistake
            _once(forwarded), headers=trace
        )
        try:
            async for result, problem in answers:
                if problem is not None:
                    return wire.passed_on(problem.message())
                if result.get_response().outputs:
                    chunks.append(_Chunk(result))
        except RpcError as error:
            why = error.details() if isinstance(error, AioRpcError) else error
            raise RuntimeError(
                f"its own server at {own_server.grpc_url()} does not answer: {why}"
            ) from None
        chunks.sort(key=lambda chunk: chunk.index)
        last = chunks[-1] if chunks else None
        if last is None or not last.finish_reason or last.index != len(chunks) - 1:
            raise RuntimeError(f"{self.stream_model} ended after {len(chunks)} chunks, unfinished")
        if why := _GIVEN_UP.get(last.finish_reason):
            raise CancelledError(why)
        return pb_utils.InferenceResponse(
            [
                wire.tensor("audio", np.concatenate([c.audio for c in chunks]), np.float32),
                wire.tensor("finish_reason", [last.finish_reason], np.object_),
                wire.tensor("sample_rate", [last.sample_rate], np.int32),
            ]
        )


def _trace_of(request) -> dict[str, str]:
    """Headers with which the ensemble's spans go on from this model's; {}: it has none."""
    return json.loads(request.trace().get_context() or "{}")


def _input(name: str, dtype: str, values: np.ndarray) -> InferInput:
    batch = values[None]
    made = InferInput(name, list(batch.shape), dtype)
    made.set_data_from_numpy(batch)
    return made


def _first_chunk(longest: np.ndarray | None) -> InferInput:
    """A first chunk as long as any: the caller hears none early, and few chunks cost less."""
    first = next(option for option in OPTIONS if option.name == _FIRST)
    asked = np.array([0] if longest is None else longest, np.int32)
    asked[asked == 0] = LONGEST_CHUNK
    return _input(_FIRST, first.dtype, asked.clip(int(first.low), int(first.high)))


async def _once(forwarded: dict) -> AsyncIterator[dict]:
    """A stream of one request."""
    yield forwarded


class _Chunk:
    """One response of the ensemble; its audio is float32 (num_samples,), without the padding."""

    def __init__(self, result) -> None:
        def value(name: str):
            return result.as_numpy(name)[0]

        self.index = int(value("chunk_index")[0])
        self.audio = np.array(value("audio")[: int(value("num_samples")[0])])
        self.finish_reason = value("finish_reason")[0].decode()
        self.sample_rate = int(value("sample_rate")[0])


def _reply(sender, response: pb_utils.InferenceResponse) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
