"""Errors as apps expect them: an HTTP status, and OpenAI's body with all four keys."""

import math
from typing import Any

from starlette.responses import JSONResponse

from voicereel import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerUnavailable,
    VoiceReelError,
)

RETRY_AFTER_S = 1  # a slot is free again after some seconds of speech; more would waste it


class ApiError(Exception):
    """What a caller is told.

    Attributes:
        status: HTTP status.
        message: Who, got, expected, what to do; never a path, a key or a traceback.
        param: The field at fault, or None.
        code: A word for programs.
        retry_after_s: When to ask again, for 429 and 503.
    """

    retry_after_s = RETRY_AFTER_S

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or _CODES.get(status)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self, flat: bool = False) -> JSONResponse:
        """The answer; `flat`: as Fish Audio's apps read it, which take these two keys alone."""
        body = {"status": self.status, "message": self.message} if flat else self.body()
        headers = {"Retry-After": str(self.retry_after_s)} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body, self.status, headers)


_TYPES = {429: "rate_limit_error"}
_CODES = {
    400: "invalid_body",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "idle",
    409: "conflict",
    413: "too_large",
    422: "invalid_value",
    429: "too_many_requests",
    500: "server_failed",
    503: "server_unavailable",
    504: "timeout",
    507: "full",
}


def invalid(param: str, message: str) -> ApiError:
    """A field whose value is wrong; the message begins with the field."""
    return ApiError(422, f"{param} {message}", param)


def api_error(error: BaseException) -> ApiError:
    """What a caller is told about any error; what only the operator may know goes to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidRequest):
        return ApiError(422, str(error))
    if isinstance(error, Overloaded):
        busy = ApiError(429, "all servers are busy; send the request again later")
        busy.retry_after_s = max(RETRY_AFTER_S, math.ceil(error.retry_after_s))
        return busy
    if isinstance(error, ServerUnavailable):
        return ApiError(503, "no speech server is ready; send the request again later")
    if isinstance(error, DeadlineExceeded):
        return ApiError(504, "the speech was not complete in time; send a shorter text")
    if isinstance(error, Cancelled):
        return ApiError(503, "the request was cancelled", code="cancelled")
    what = "the speech server" if isinstance(error, VoiceReelError) else "the gateway"
    return ApiError(500, f"{what} failed; its log says why, under the request id of this answer")
