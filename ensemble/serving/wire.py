"""Converts between Triton's requests and NumPy, for the Python models. Imports only in a server."""

from __future__ import annotations  # pb_utils gets its classes only after this import

from dataclasses import replace
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract import errors
from ensemble.contract.inputs import without_batch
from ensemble.contract.manifest import refuse_changed
from ensemble.contract.parameters import parameters_of
from ensemble.contract.tensors import MODELS, Tensor
from ensemble.serving import own_server

_LINES = errors.LogLines()


class Accepted:
    """A request whose tensors and parameters are those of its model.

    Attributes:
        arrays: Inputs by name, without their batch axis; None for those left out.
        parameters: The request's parameters.
    """

    def __init__(self, model: str, request, complete: bool = True) -> None:
        """Check a request before any work.

        Args:
            model: The name of the model that got it.
            request: Triton's.
            complete: Whether to look for inputs that are missing; who passes the request on need
                not.

        Raises:
            ValueError: If an input is not what the contract says, or a parameter is unknown.
        """
        self.arrays = {
            t.name: without_batch(t if complete else replace(t, optional=True), _batch(request, t))
            for t in MODELS[model].inputs
        }
        self.parameters = parameters_of(model, request.parameters(), own_server.forwarded())

    def given(self, name: str) -> np.ndarray:
        """An input that no request may leave out."""
        array = self.arrays[name]
        assert array is not None  # checked above
        return array

    def texts(self, name: str) -> list[str]:
        """A BYTES input as text; empty if the request left it out.

        Raises:
            ValueError: If it is not UTF-8.
        """
        values, decoded = self.arrays[name], []
        for value in [] if values is None else values:
            try:
                decoded.append(value.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{name} is not UTF-8 ({error}). Encode it as UTF-8.") from None
        return decoded


def _batch(request, declared: Tensor) -> np.ndarray | None:
    tensor = pb_utils.get_input_tensor_by_name(request, declared.name)
    if tensor is None:
        return None
    try:
        return tensor.as_numpy()
    except Exception as problem:  # text whose lengths do not add up, for instance
        raise ValueError(f"{declared.name} cannot be read: {problem}.") from None


def tensor(name: str, values, dtype: type) -> pb_utils.Tensor:
    """An output with its batch axis put back."""
    return pb_utils.Tensor(name, np.asarray(values, dtype)[None])


def error(who: str, problem: Exception, request_id: str = "") -> pb_utils.InferenceResponse:
    """A response that says which model could not do what; the log says for which request.

    Args:
        who: The model's name.
        problem: What was raised; its class gives the code, see `ensemble.contract.errors`.
        request_id: As the caller named the request.
    """
    kind, message = errors.kind_of(problem), errors.message_of(who, problem)
    if line := _LINES.line(request_id, message, kind):
        log = pb_utils.Logger.log_error if kind is errors.INTERNAL else pb_utils.Logger.log_info
        log(line)
    return _refusal(message, kind)


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


def checked_folder(args: dict) -> Path:
    """The same, whose files are those that were exported.

    Raises:
        ValueError: Says which file or model differs, and what to do.
    """
    refuse_changed(folder := version_folder(args))
    return folder
