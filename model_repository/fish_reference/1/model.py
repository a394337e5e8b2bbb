"""fish_reference: reference_audio FP32 (samples,), reference_sample_rate?, chunk_size_s? ->
waveform, conditioned and padded, chunk_frames, reference_frames, checkpoint_id. See
`ensemble.contract.tensors` and `ensemble.contract.reference`.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract.facts import Facts
from ensemble.contract.reference import chunk_frames, encoder_input
from ensemble.serving import wire
from ensemble.serving.own_server import end_with_it


class TritonPythonModel:
    """Checks a recording, conditions it and pads it."""

    def initialize(self, args: dict) -> None:
        end_with_it()
        self.facts, self.warned = Facts.load(wire.checked_folder(args)), False

    def execute(self, requests: list) -> list:
        return [self._answer(request) for request in requests]

    def _answer(self, request) -> pb_utils.InferenceResponse:
        try:
            asked = wire.Accepted("fish_reference", request)
            rate, size = asked.arrays["reference_sample_rate"], asked.arrays["chunk_size_s"]
            self._warn_once(rate)
            chunk = chunk_frames(None if size is None else float(size[0]), self.facts)
            waveform, frames = encoder_input(
                asked.given("reference_audio"),
                None if rate is None else int(rate[0]),
                self.facts,
            )
        except Exception as problem:
            return wire.error("fish_reference", problem, request.request_id())
        return pb_utils.InferenceResponse(
            [
                wire.tensor("waveform", waveform, np.float32),
                wire.tensor("chunk_frames", [chunk], np.int64),
                wire.tensor("reference_frames", [frames], np.int32),
                wire.tensor("checkpoint_id", [self.facts.checkpoint_id], np.object_),
            ]
        )

    def _warn_once(self, rate: np.ndarray | None) -> None:
        """Say in the log that a rate was not stated: the sound alone does not show a wrong one."""
        if rate is None and not self.warned:
            self.warned = True
            pb_utils.Logger.log_warn(
                "fish_reference: a recording came without reference_sample_rate and was taken to "
                f"be at {self.facts.sample_rate} Hz. Callers should state its rate."
            )
