"""fish_facts: fact, the name of one or "" -> value, JSON. See `ensemble.contract.facts`."""

from __future__ import annotations  # pb_utils gets its classes only after this import

import json
from dataclasses import asdict

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract.facts import Facts
from ensemble.serving import wire


class TritonPythonModel:
    """Tells callers what the checkpoint is."""

    def initialize(self, args: dict) -> None:
        self.facts = {}
        try:
            self.facts = asdict(Facts.load(wire.version_folder(args)))
        except FileNotFoundError as problem:  # exported before there was this model: all else works
            pb_utils.Logger.log_warn(f"fish_facts: nothing to tell: {problem}")

    def execute(self, requests: list) -> list:
        return [self._answer(request) for request in requests]

    def _answer(self, request) -> pb_utils.InferenceResponse:
        try:
            wire.parameters("fish_facts", request)
            (name,) = wire.texts(request, "fact")
            if name and name not in self.facts:
                known = ", ".join(self.facts) or "none"
                raise ValueError(f'fact is {name!r}, expected "" for all, or one of {known}.')
            value = json.dumps(self.facts[name] if name else self.facts)
        except Exception as problem:
            return wire.error("fish_facts", problem)
        return pb_utils.InferenceResponse([wire.tensor("value", [value], np.object_)])
