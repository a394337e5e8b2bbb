"""HTTP: one response per request, one connection per call.

It uses the standard library, because tritonclient's HTTP client is bound to the thread that created
it (gevent).
"""

import http.client
import json
import uuid
from collections.abc import Generator
from typing import Any

from tritonclient.utils import np_to_triton_dtype

from voicereel.caller import current_caller
from voicereel.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ServerError,
    VoiceReelError,
    error_for,
)
from voicereel.transport.address import Address
from voicereel.transport.base import Tensors, from_raw, raw_bytes
from voicereel.transport.repeats import NoConnection, Repeats

_HEADER_LENGTH = "Inference-Header-Content-Length"
# HTTP status -> gRPC status name. Source: HttpCodeFromError of Triton's http_server.cc.
_STATUS = {
    400: "INVALID_ARGUMENT",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class HttpTransport:
    """Triton's HTTP protocol with the binary tensor extension."""

    def __init__(self, address: Address, return_s: float) -> None:
        """Prepare calls; `return_s` as in `Client`."""
        self._address, self._return_s = address, return_s
        self._reached = False  # whether this server has ever answered

    def infer(self, model: str, inputs: Tensors, timeout_s: float) -> Tensors:
        header, values = _request(inputs, timeout_s)
        path = f"/v2/models/{model}/infer"
        status, length, body = self._repeated("POST", path, timeout_s, header + values, len(header))
        if status != http.client.OK:
            raise _typed(status, body)
        return _tensors(body, length)

    def stream(self, model: str, inputs: Tensors, timeout_s: float) -> Generator[Tensors]:
        raise InvalidRequest(
            'streaming needs gRPC: Client("HOST:8001", protocol="grpc"). '
            "Over HTTP there is synthesize()."
        )

    def is_ready(self, model: str | None, timeout_s: float) -> bool:
        path = "/v2/health/ready" if model is None else f"/v2/models/{model}/ready"
        status, _, _ = self._repeated("GET", path, timeout_s, patient=False)
        return status == http.client.OK

    def close(self) -> None:
        pass

    def _repeated(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes = b"",
        header_length: int = 0,
        patient: bool = True,
    ) -> tuple[int, int, bytes]:
        """What `_call` returns, as soon as it gets through, as `Repeats` allows."""
        return_s = self._return_s if patient and self._reached else 0
        repeats = Repeats(self._address, return_s, timeout_s)
        while True:
            try:
                response = self._call(method, path, repeats.left_s, body, header_length)
            except NoConnection as problem:
                repeats.or_raise(problem)
            else:
                self._reached = True
                return response

    def _call(
        self, method: str, path: str, timeout_s: float, body: bytes, header_length: int
    ) -> tuple[int, int, bytes]:
        """Status of the response, length of its JSON header (0 if not given), and its body."""
        host, port = self._address.host, self._address.port
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        connected = False
        headers = dict(current_caller().metadata)
        if body:
            headers[_HEADER_LENGTH] = str(header_length)
        try:
            connection.connect()
            connected = True
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, int(response.headers.get(_HEADER_LENGTH, 0)), response.read()
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from {self._address} in {timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise NoConnection(str(error) or type(error).__name__, sent=connected) from None
        finally:
            connection.close()


def _request(inputs: Tensors, timeout_s: float) -> tuple[bytes, bytes]:
    """The JSON header of a request, and the binary values that follow it."""
    values = [raw_bytes(array) for array in inputs.values()]
    header = {
        "id": str(uuid.uuid4()),
        "parameters": {"timeout": int(timeout_s * 1e6), "binary_data_output": True},
        "inputs": [
            {
                "name": name,
                "shape": array.shape,
                "datatype": np_to_triton_dtype(array.dtype),
                "parameters": {"binary_data_size": len(raw)},
            }
            for (name, array), raw in zip(inputs.items(), values, strict=True)
        ],
    }
    return json.dumps(header).encode(), b"".join(values)


def _tensors(body: bytes, header_length: int) -> Tensors:
    tensors, start = {}, header_length
    for output in json.loads(body[:header_length])["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        tensors[output["name"]] = from_raw(output["datatype"], output["shape"], body[start:end])
        start = end
    return tensors


def _typed(status: int, body: bytes) -> VoiceReelError:
    try:
        response: Any = json.loads(body)
        return error_for(_STATUS.get(status, "UNKNOWN"), response["error"])
    except (ValueError, KeyError, TypeError):
        return ServerError(f"HTTP {status}, but no response of Triton: is this its HTTP port?")
