"""Asks each model's own process for a sign of life: a cheap request that it refuses in its words.

Triton goes on to call a server and its models ready when the process of a Python model has died
(Triton 24.10); requests to it fail for ever. Native backends refuse in words of their own, or
compute one frame: any answer is a sign of life but those that say that the process or the model is
gone.
"""

import random
import re
import struct
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from ensemble.contract.tensors import ANY, MODELS

_pb: Any = service_pb2  # its classes are created at import, so type checkers do not see them
_ENSEMBLES = ("fish_tts_stream", "fish_clone_stream", "fish_encode")  # they have no process
PROBED = tuple(model for model in MODELS if model not in _ENSEMBLES)
# How Triton answers for a process that has died. Source: its Python backend, python_be.cc.
DEAD = re.compile(r"Stub process '[\w.-]+' is not healthy|Failed to (?:process|send) .* stub", re.I)
_GONE = re.compile("unknown model|not ready|no available versions", re.I)
_SILENT = "no answer"
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"  # decoupled models take no other
_ZEROS = {"INT32": bytes(4), "INT64": bytes(8), "BYTES": bytes(4)}
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


def request_of(model: str) -> bytes:
    """A request that the model's process refuses: nothing for all inputs, and a wrong parameter."""
    request = _pb.ModelInferRequest(model_name=model, id="probe")
    request.parameters["probe"].bool_param = True
    for tensor in MODELS[model].inputs:
        if not tensor.optional:
            shape = [1, *(1 if dim == ANY else dim for dim in tensor.dims)]
            request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=shape)
            # A number of its own, so that no cache answers for the model.
            sample = struct.pack("<f", random.random())
            request.raw_input_contents.append(_ZEROS.get(tensor.dtype, sample))
    return request.SerializeToString()


async def why_silent(channel: grpc.aio.Channel, model: str, timeout_s: float) -> str:
    """Ask one model.

    Args:
        channel: To the server's gRPC port.
        model: One of `PROBED`.
        timeout_s: A busy model may answer late; a dead one's server answers after a second.

    Returns:
        Why it gave no sign of life: the server's words (`DEAD` if its process has died), or that
        there was no answer; "" if it gave one.
    """
    call: Any = channel.stream_stream(_METHOD)(iter([request_of(model)]), timeout=timeout_s)
    try:
        return _why([reply async for reply in call])
    except grpc.aio.AioRpcError as error:
        return _why_broken(error)


def knock(repository: Path, grpc_url: str, timeout_s: float) -> str:
    """Ask all models of a server at once, waiting for them.

    Args:
        repository: Models that it lacks are not asked.
        grpc_url: HOST:PORT of the server's gRPC service.
        timeout_s: Seconds that they may take.

    Returns:
        Which model gives no sign of life and why, or "".
    """
    models = [model for model in PROBED if (repository / model / "config.pbtxt").is_file()]
    with grpc.insecure_channel(grpc_url, _OPTIONS) as channel:
        ask: Any = channel.stream_stream(_METHOD)
        calls = {model: ask(iter([request_of(model)]), timeout=timeout_s) for model in models}
        for model, call in calls.items():
            try:
                why = _why(list(call))
            except grpc.RpcError as error:
                why = _why_broken(error)
            if why:
                return f"{model}: {why}"
    return ""


def _why(replies: list[bytes]) -> str:
    said = map(_pb.ModelStreamInferResponse.FromString, replies)
    return _without_life(next((each.error_message for each in said if each.error_message), ""))


def _why_broken(error: Any) -> str:
    """What is wrong with a call that ended with a status."""
    silent = error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    words = error.details() or ""
    return f"{_SILENT}: {words}" if silent else _without_life(words)


def _without_life(words: str) -> str:
    return words if DEAD.search(words) or _GONE.search(words) else ""
