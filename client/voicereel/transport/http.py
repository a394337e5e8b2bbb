"""HTTP: one response per request, one connection per call.

It uses the standard library, because tritonclient's HTTP client is bound to the thread that created
it (gevent). Nothing that a server sends takes more time than the call has, or more memory than the
longest answer: redirects and compressed answers are not followed.
"""

import http.client
import json
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
from voicereel.transport.base import MAX_RESPONSE_BYTES, Tensors, answered, raw_bytes
from voicereel.transport.repeats import NoConnection
from voicereel.transport.timed import TimedConnection

_HEADER_LENGTH = "Inference-Header-Content-Length"
_MAX_HEADER_BYTES = 2**16  # of JSON: names and shapes of some outputs, or an error's message
# HTTP status -> gRPC status name. Source: HttpCodeFromError of Triton's http_server.cc; proxies
# add 413 and 429.
_STATUS = {
    400: "INVALID_ARGUMENT",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_PROXY_FAILED = (502, 503)  # without Triton's JSON: a proxy lost the server, or has none


class HttpTransport:
    """Triton's HTTP protocol with the binary tensor extension."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def infer(self, model: str, inputs: Tensors, timeout_s: float, request_id: str) -> Tensors:
        header, values = _request(inputs, timeout_s, request_id)
        path = f"/v2/models/{model}/infer"
        response, body = self._call("POST", path, timeout_s, header + values, len(header))
        if response.status != http.client.OK:
            raise self._typed(response, body)
        length = response.headers.get(_HEADER_LENGTH, "")
        if not (length.isdecimal() and len(length) < 10):
            raise ServerError(
                f"{self._address}: HTTP 200 without {_HEADER_LENGTH}, expected a response of "
                "Triton: is this its HTTP port?"
            )
        return _tensors(body, int(length))

    def stream(
        self, model: str, inputs: Tensors, timeout_s: float, request_id: str
    ) -> Generator[Tensors]:
        raise InvalidRequest(
            'streaming needs gRPC: Client("HOST:8001", protocol="grpc"). '
            "Over HTTP there is synthesize()."
        )

    def is_ready(self, model: str | None, timeout_s: float) -> bool:
        path = "/v2/health/ready" if model is None else f"/v2/models/{model}/ready"
        return self._call("GET", path, timeout_s)[0].status == http.client.OK

    def close(self) -> None:
        pass

    def _call(
        self, method: str, path: str, timeout_s: float, body: bytes = b"", header_length: int = 0
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """The response, and its body."""
        address = self._address
        connection = TimedConnection(address, timeout_s)
        connected = False
        headers = dict(current_caller().metadata)
        if body:
            headers[_HEADER_LENGTH] = str(header_length)
        if address.name:
            headers["Host"] = f"{address.name}:{address.port}"
        try:
            connection.connect()
            connected = True
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response, self._body(response)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from {address} in {timeout_s:g} s") from None
        except (http.client.RemoteDisconnected, http.client.IncompleteRead, OSError) as error:
            raise NoConnection(str(error) or type(error).__name__, sent=connected) from None
        except (http.client.HTTPException, ValueError) as error:
            what = str(error)[:80] or type(error).__name__
            raise ServerError(f"{address} answers no HTTP ({what}): is this its port?") from None
        finally:
            connection.close()

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        """The body of a response; of one that is no answer, the beginning."""
        is_answer = response.status == http.client.OK
        limit = MAX_RESPONSE_BYTES if is_answer else _MAX_HEADER_BYTES
        if is_answer and (response.length or 0) > limit:
            raise self._too_long(f"{response.length} bytes")
        encoding = response.headers.get("Content-Encoding", "identity")
        if is_answer and encoding.lower() != "identity":
            raise ServerError(f"{self._address}: the answer is {encoding[:20]!r}-encoded, which "
                              "was not asked for")  # fmt: skip
        pieces, size = [], 0
        while size <= limit and (piece := response.read(min(2**20, limit + 1 - size))):
            pieces.append(piece)
            size += len(piece)
        if is_answer and size > limit:
            raise self._too_long("more bytes")
        return b"".join(pieces)

    def _too_long(self, got: str) -> ServerError:
        return ServerError(
            f"{self._address}: the answer has {got}, expected at most {MAX_RESPONSE_BYTES}"
        )

    def _typed(
        self, response: http.client.HTTPResponse, body: bytes
    ) -> VoiceReelError | NoConnection:
        status, seconds = response.status, response.headers.get("Retry-After", "")
        retry_after_s = float(seconds) if seconds.isdecimal() and len(seconds) < 7 else 0.0
        try:
            message: Any = json.loads(body)["error"]
            if isinstance(message, str):
                return error_for(_STATUS.get(status, "UNKNOWN"), message, retry_after_s)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        if status == http.client.TOO_MANY_REQUESTS:
            return error_for("RESOURCE_EXHAUSTED", f"{self._address}: HTTP 429", retry_after_s)
        elsewhere = response.headers.get("Location", "")[:80]
        is_redirect = elsewhere and 300 <= status < 400
        to = f" to {elsewhere!r}, which is not followed" if is_redirect else ""
        final = ServerError(
            f"{self._address}: HTTP {status}{to}, but no response of Triton: is this its HTTP port?"
        )
        final.retry_after_s = retry_after_s
        if status in _PROXY_FAILED:
            return NoConnection(f"HTTP {status} of a proxy", sent=True, final=final)
        return final


def _request(inputs: Tensors, timeout_s: float, request_id: str) -> tuple[bytes, bytes]:
    """The JSON header of a request, and the binary values that follow it."""
    values = [raw_bytes(array) for array in inputs.values()]
    header = {
        "id": request_id,
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
    if header_length > min(len(body), _MAX_HEADER_BYTES):
        raise ServerError(
            f"the response's JSON has {header_length} bytes of {len(body)}, expected at most "
            f"{_MAX_HEADER_BYTES}"
        )
    tensors, start = {}, header_length
    try:
        for output in json.loads(body[:header_length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            if not (isinstance(size, int) and 0 <= size <= len(body) - start):
                raise ServerError(
                    f"the response's {str(output['name'])[:40]!r} has {str(size)[:20]} bytes, but "
                    f"{len(body) - start} are left"
                )
            raw = body[start : start + size]
            shape = output["shape"]
            tensors[str(output["name"])] = answered(output["name"], output["datatype"], shape, raw)
            start += size
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ServerError(
            f"the response is no JSON of Triton ({type(error).__name__}: {str(error)[:80]}): "
            "are client and server of one version?"
        ) from None
    return tensors
