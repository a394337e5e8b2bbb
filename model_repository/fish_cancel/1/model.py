"""fish_cancel: cancel_token -> cancelled, whether the request was still under way."""

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.serving import drain, wire
from ensemble.serving.cancel import take_back
from ensemble.serving.own_server import end_with_it


class TritonPythonModel:
    """Takes a caller's token back; see `ensemble.serving.cancel`."""

    def initialize(self, args: dict) -> None:
        end_with_it()
        drain.watch()

    def execute(self, requests: list) -> list:
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            (token,) = wire.Accepted("fish_cancel", request).texts("cancel_token")
            cancelled = take_back(token)
        except Exception as problem:
            return wire.error("fish_cancel", problem, request.request_id())
        return pb_utils.InferenceResponse([wire.tensor("cancelled", [cancelled], np.bool_)])
