"""Triton's requests -> arrays, and results -> its responses."""

from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.serving.stand_in.batch import Arrays, Run, run_batch
from ensemble.serving.stand_in.served_model import ServedModel


def answers(model: ServedModel, requests: list[Any], run: Run) -> list[Any]:
    """Answer the requests of one batch, in order, with one run where that is possible."""
    arrays = [{t.name(): t.as_numpy() for t in request.inputs()} for request in requests]
    return [_response(model, result) for result in run_batch(model, arrays, run)]


def _response(model: ServedModel, result: Arrays | Exception) -> Any:
    if isinstance(result, Exception):
        message = f"{model.name}: {type(result).__name__}: {result}"
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
    return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in result.items()])
