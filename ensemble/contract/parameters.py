"""What a request's parameters may be, beside its tensors.

Triton passes on whatever a caller sends: with `generate`, every field of the JSON that is no input
of the model. A name that nobody reads is a slip, so it is refused.
"""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

from ensemble.contract.tensors import MODELS

CANCEL_TOKEN = "cancel_token"  # see ensemble.serving.cancel
TIMEOUT = "timeout"  # in us; Triton takes it out of all requests but those of `generate`
# Triton's own, from its protocol and its clients. `generate` leaves all of them in the parameters.
_TRITONS = (
    "binary_data_output", "headers", "id", "priority", "sequence_end", "sequence_id",
    "sequence_start", TIMEOUT, "triton_enable_empty_final_response", "triton_final_response",
)  # fmt: skip
_KNOWN = (CANCEL_TOKEN, *_TRITONS)
_LONGEST_TIMEOUT_US = 86_400 * 10**6  # a day; a larger number was negative, or not in us


def parameters_of(model: str, text: str, forwarded: Iterable[str] = ()) -> dict[str, Any]:
    """Read the parameters of a request.

    Args:
        model: The name of the model that got the request.
        text: The parameters, as JSON.
        forwarded: Patterns of the headers that the server passes on as parameters.

    Raises:
        ValueError: If one is unknown; names it, and the known name that is nearest.
    """
    parameters = json.loads(text or "{}")
    known = _inputs_of_callers(model)
    for name in parameters:
        if name in _KNOWN or any(re.fullmatch(p, name, re.IGNORECASE) for p in forwarded):
            continue
        if name in known:
            raise ValueError(f"{name} came as a parameter, expected it as an input tensor.")
        near = difflib.get_close_matches(name, [*known, CANCEL_TOKEN, TIMEOUT], n=1, cutoff=0.5)
        hint = f". Did you mean {near[0]}?" if near else "."
        raise ValueError(
            f"there is no parameter {name!r}{hint} Known are {', '.join(known)}, "
            f"and the parameters {CANCEL_TOKEN} and {TIMEOUT}."
        )
    return parameters


def _inputs_of_callers(model: str) -> list[str]:
    """Inputs of a model, and of the ensembles that begin with it."""
    own = {tensor.name for tensor in MODELS[model].inputs}
    names = ([tensor.name for tensor in signature.inputs] for signature in MODELS.values())
    return list(dict.fromkeys(name for each in names if own <= {*each} for name in each))


def timeout_us(given_us: int, parameters: dict[str, Any]) -> int:
    """The timeout of a request in microseconds, 0 for none.

    Args:
        given_us: What Triton says; 0 also for a request of `generate` that has one.
        parameters: The request's.

    Raises:
        ValueError: If it is no number of microseconds.
    """
    asked = parameters.get(TIMEOUT, 0)
    if not isinstance(asked, int) or isinstance(asked, bool):
        raise ValueError(f"timeout is {asked!r}, expected whole microseconds from 0.")
    asked = given_us or asked
    if asked >= 2**63:
        asked -= 2**64  # Triton's own number has no sign
    if not 0 <= asked <= _LONGEST_TIMEOUT_US:
        raise ValueError(
            f"timeout is {asked}, expected whole microseconds from 0 to {_LONGEST_TIMEOUT_US}, "
            "a day. Leave it out for none."
        )
    return asked
