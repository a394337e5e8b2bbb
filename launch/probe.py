"""Asks each model's own process for a sign of life: a cheap request that it refuses in its words.

Triton goes on to call a server and its models ready when the process of a Python model has died
(Triton 24.10); requests to it fail for ever.
"""

import random
import struct
from typing import Any

import grpc.aio
from tritonclient.grpc import service_pb2

from ensemble.contract.tensors import ANY, MODELS
from launch.doors import DEAD

_pb: Any = service_pb2  # its classes are created at import, so type checkers do not see them
_ENSEMBLES = ("fish_tts_stream", "fish_clone_stream", "fish_encode")  # they have no process
PROBED = tuple(model for model in MODELS if model not in _ENSEMBLES)
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"  # decoupled models take no other
_ZEROS = {"INT32": bytes(4), "INT64": bytes(8), "BYTES": bytes(4)}


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


async def why_dead(channel: grpc.aio.Channel, model: str, timeout_s: float) -> str:
    """Ask one model.

    Args:
        channel: To the server's gRPC port.
        model: One of `PROBED`.
        timeout_s: A busy model may answer late; a dead one's server answers after a second.

    Returns:
        The server's words if the model's process has died; "" if it answers, is not served, or has
        not answered in time.
    """
    call: Any = channel.stream_stream(_METHOD)(iter([request_of(model)]), timeout=timeout_s)
    try:
        said = ""
        async for reply in call:
            said = said or _pb.ModelStreamInferResponse.FromString(reply).error_message
    except grpc.aio.AioRpcError as error:
        said = error.details() or ""
    return said if DEAD.search(said) else ""
