"""fish_prompt: text, and a voice as codes -> prompt INT32 (1 + codebooks, positions),
prefix_length, prompt_parts. See `ensemble.contract.voice` and `families.registry`.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract.voice import PromptError, references_from
from ensemble.serving import wire
from families.registry import prompt_builder


class TritonPythonModel:
    """Builds the prompt of the checkpoint's family from text and voice."""

    def initialize(self, args: dict) -> None:
        self.builder = prompt_builder(wire.version_folder(args))

    def execute(self, requests: list) -> list:
        return [self._answer(request) for request in requests]

    def _answer(self, request) -> pb_utils.InferenceResponse:
        try:
            self._check_origin(wire.texts(request, "checkpoint_id"))
            references = references_from(
                wire.texts(request, "reference_text"),
                wire.array(request, "reference_codes"),
                wire.array(request, "reference_frames"),
            )
            text = wire.texts(request, "text")[0]
            prompt, prefix, parts = self.builder.build_parts(text, references)
        except Exception as problem:
            return wire.error("fish_prompt", problem)
        return pb_utils.InferenceResponse(
            [
                wire.tensor("prompt", prompt, np.int32),
                wire.tensor("prefix_length", [prefix], np.int32),
                wire.tensor("prompt_parts", parts, np.int32),
            ]
        )

    def _check_origin(self, checkpoint_ids: list[str]) -> None:
        served = self.builder.facts.checkpoint_id
        for made_by in checkpoint_ids:
            if made_by != served:
                raise PromptError(
                    f"reference_codes were made by checkpoint {made_by}, this server has {served}. "
                    "Encode the recording again with this server's fish_encode."
                )
