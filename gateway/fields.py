"""Fields of a request's body, checked at the edge before any work."""

import base64
import binascii
import json
import reprlib
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, StrictStr, ValidationError

from gateway.errors import ApiError, invalid
from voicereel import InvalidRequest
from voicereel.options import OPTIONS, option_tensors

Model = TypeVar("Model", bound=BaseModel)


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("expected at least one visible character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start + 1} is half of a surrogate pair") from None
    return text


Words = Annotated[StrictStr, AfterValidator(_words)]


def checked_words(value: Any, param: str) -> str:
    """A field of a form that must have words in it.

    Raises:
        ApiError: 422, if it is missing or blank.
    """
    if not isinstance(value, str):
        raise ApiError(422, f"{param} is missing; expected text", param, "missing_field")
    try:
        return _words(value)
    except ValueError as error:
        raise invalid(param, f"is {reprlib.repr(value)}, {error}") from None


def json_body(body: bytes) -> dict[str, Any]:
    """A JSON object; fields that are null are left out, as if they had not been sent.

    Raises:
        ApiError: 400, if it is none.
    """
    try:
        found = json.loads(body, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"the body is {reprlib.repr(found)}, expected a JSON object")
    return {name: value for name, value in found.items() if value is not None}


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_KINDS = ("str", "int", "float", "bytes", "VoiceId")  # which pydantic adds to a place, of unions


def checked(model: type[Model], body: dict[str, Any], extra: str = "") -> Model:
    """The fields of a body.

    Args:
        model: Describes them; its names are those of the body.
        body: What came.
        extra: Names of fields that were taken out before, for the message about an unknown one.

    Raises:
        ApiError: 422, for the first field that is wrong.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in found["loc"] if part not in _KINDS)
    known = ", ".join([*model.model_fields, *filter(None, [extra])])
    if found["type"] == "missing":
        raise ApiError(422, f"{param} is missing; a request has {known}", param, "missing_field")
    if found["type"] == "extra_forbidden":
        raise ApiError(422, f"{param} is no field; there are {known}", param, "unknown_field")
    expected = found["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    raise invalid(param, f"is {reprlib.repr(found['input'])}, {expected}")


def options_of(body: dict[str, Any]) -> dict[str, Any]:
    """Take the model's options out of a body; their ranges are the client's.

    Raises:
        ApiError: 422, for the first that is wrong.
    """
    options = {name: body.pop(name) for name in list(body) if name in OPTIONS}
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(name, f"is {reprlib.repr(value)}, expected {OPTIONS[name].range}")
        try:
            option_tensors({name: value})
        except TypeError:
            raise invalid(name, f"is {value!r}, expected a whole number") from None
        except InvalidRequest as error:
            raise ApiError(422, str(error), name) from None
    return options


def recording_bytes(text: str, param: str) -> bytes:
    """A recording that came as base64.

    Raises:
        ApiError: 422, if it is no base64.
    """
    if "://" in text[:16]:
        raise invalid(param, "is a URL; send the recording itself, as base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(param, f"is no base64: {error}") from None
