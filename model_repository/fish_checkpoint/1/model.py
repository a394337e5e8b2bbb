"""fish_checkpoint: nothing -> checkpoint, JSON: see `ensemble.contract.options.described`."""

from __future__ import annotations  # pb_utils gets its classes only after this import

import json

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract.facts import Facts
from ensemble.contract.options import described
from ensemble.serving import wire
from ensemble.serving.own_server import end_with_it


class TritonPythonModel:
    """Says the same to everyone."""

    def initialize(self, args: dict) -> None:
        end_with_it()
        self.text, self.problem = "", None
        try:
            self.text = json.dumps(described(Facts.load(wire.checked_folder(args))))
        except FileNotFoundError as problem:  # exported before there was this model: all else works
            self.problem = problem
            pb_utils.Logger.log_warn(f"fish_checkpoint: nothing to tell: {problem}")

    def execute(self, requests: list) -> list:
        return [self._answer(request) for request in requests]

    def _answer(self, request) -> pb_utils.InferenceResponse:
        try:
            wire.Accepted("fish_checkpoint", request)
            if self.problem:
                raise self.problem
        except Exception as problem:
            return wire.error("fish_checkpoint", problem, request.request_id())
        return pb_utils.InferenceResponse([wire.tensor("checkpoint", [self.text], np.object_)])
