"""A stand-in for what Triton gives to a Python model, so that a model.py runs without a server."""

import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

FINAL = 1


class Error(Exception):
    """`pb_utils.TritonError`."""

    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = range(4)

    def __init__(self, text: str, code: int = INTERNAL) -> None:
        super().__init__(text)
        self.text, self.code = text, code

    def message(self) -> str:
        return self.text


class Tensor:
    """`pb_utils.Tensor`."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> np.ndarray:
        return self.values


class Response:
    """`pb_utils.InferenceResponse`."""

    def __init__(self, tensors: list[Tensor] | None = None, error: Error | None = None) -> None:
        self.tensors = {t.name: t.values[0] for t in tensors or []}
        self.error = error


class Family:
    """`pb_utils.MetricFamily`; whatever is counted is forgotten."""

    COUNTER = GAUGE = HISTOGRAM = "kind"

    def __init__(self, **_: Any) -> None:
        pass

    def Metric(self, **_: Any) -> "Family":
        return self

    def increment(self, _: float) -> None:
        pass

    set = observe = increment


class Clock:
    """The time of a model, which a test can put forward."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


class Sender:
    """A response sender that keeps all that is sent, and counts FINALs.

    Attributes:
        sent: Every response that was sent with its flags.
        on_send: Called with each response before it is kept; what it raises, `send` raises.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[Response | None, int]] = []
        self.cancelled = False
        self.on_send: Callable[[Response | None], object] = lambda _: None
        self._final = threading.Event()

    def send(self, response: Response | None = None, flags: int = 0) -> None:
        self.on_send(response)
        self.sent.append((response, flags))
        if flags & FINAL:
            self._final.set()

    def is_cancelled(self) -> bool:
        return self.cancelled

    def wait(self, timeout_s: float = 60) -> None:
        """Until FINAL has been sent."""
        assert self._final.wait(timeout_s), f"no FINAL after {self.sent}"

    @property
    def finals(self) -> list[bool]:
        """Of each response, whether it was marked FINAL."""
        return [bool(flags & FINAL) for _, flags in self.sent]

    @property
    def error(self) -> str:
        """The message of the last response, "" if it is no error."""
        response = self.sent[-1][0]
        return response.error.text if response and response.error else ""

    @property
    def finish_reason(self) -> str:
        """That of the last response."""
        return self.sent[-1][0].tensors["finish_reason"][0]


class Request:
    """A request with inputs that have no batch axis yet."""

    def __init__(
        self, parameters: str = "{}", timeout_us: int = 0, request_id: str = "",
        trace: str | None = None, **inputs: Any,
    ) -> None:  # fmt: skip
        self.inputs = {name: np.asarray(value)[None] for name, value in inputs.items()}
        self._parameters, self._timeout_us, self._id = parameters, timeout_us, request_id
        self._trace = trace
        self.sender = Sender()

    def request_id(self) -> str:
        return self._id

    def parameters(self) -> str:
        return self._parameters

    def timeout(self) -> int:
        return self._timeout_us

    def trace(self) -> SimpleNamespace:
        return SimpleNamespace(get_context=lambda: self._trace)

    def get_response_sender(self) -> Sender:
        return self.sender


def _tensor_of(request: Request, name: str) -> Tensor | None:
    return Tensor(name, request.inputs[name]) if name in request.inputs else None


_PB_UTILS: Any = ModuleType("triton_python_backend_utils")
_PB_UTILS.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
_PB_UTILS.TritonError, _PB_UTILS.Tensor, _PB_UTILS.InferenceResponse = Error, Tensor, Response
_PB_UTILS.MetricFamily = Family
_PB_UTILS.get_input_tensor_by_name = _tensor_of
_LEVELS = ("log_info", "log_warn", "log_error")
_PB_UTILS.Logger = type("Logger", (), dict.fromkeys(_LEVELS, staticmethod(print)))

sys.modules.setdefault("triton_python_backend_utils", _PB_UTILS)


def load(path: Path) -> Any:
    """The module at a path, with this stand-in as its `pb_utils`."""
    spec = importlib.util.spec_from_file_location(f"{path.parents[1].name}_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
