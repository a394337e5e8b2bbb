"""Converts between Triton's requests and NumPy, for the Python models. Imports only in a server."""

from __future__ import annotations  # pb_utils gets its classes only after this import

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract import errors
from ensemble.contract.parameters import parameters_of
from ensemble.serving import own_server


def array(request, name: str) -> np.ndarray | None:
    """An input without its batch axis, or None if the request left it out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()[0]


def required(request, name: str) -> np.ndarray:
    """An input without its batch axis that Triton lets no request leave out."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]


def texts(request, name: str) -> list[str]:
    """A BYTES input as text; empty if the request left it out.

    Raises:
        ValueError: If it is not UTF-8.
    """
    values = array(request, name)
    decoded = []
    for value in [] if values is None else values:
        try:
            decoded.append(value.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8 ({error}). Encode it as UTF-8.") from None
    return decoded


def parameters(model: str, request) -> dict[str, Any]:
    """The request's parameters.

    Raises:
        ValueError: If one is unknown.
    """
    return parameters_of(model, request.parameters(), own_server.forwarded())


def tensor(name: str, values, dtype: type) -> pb_utils.Tensor:
    """An output with its batch axis put back."""
    return pb_utils.Tensor(name, np.asarray(values, dtype)[None])


def error(who: str, problem: Exception) -> pb_utils.InferenceResponse:
    """A response that says which model could not do what.

    Args:
        who: The model's name.
        problem: What was raised; its class gives the code, see `ensemble.contract.errors`.
    """
    return _refusal(errors.message_of(who, problem), errors.kind_of(problem))


def passed_on(message: str) -> pb_utils.InferenceResponse:
    """Another model's error, with the code that it had there."""
    return _refusal(message, errors.kind_in(message))


def _refusal(message: str, kind: errors.Kind) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, kind.code))
    )


def version_folder(args: dict) -> Path:
    """The folder that holds this model's artefacts."""
    return Path(args["model_repository"]) / args["model_version"]
