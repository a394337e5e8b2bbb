"""fish_prompt: text, and a voice as codes -> prompt INT32 (1 + codebooks, positions),
prefix_length, prompt_parts. See `ensemble.contract.voice` and `families.registry`.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract.settings import server_settings
from ensemble.contract.text import prompt_text, prompt_texts
from ensemble.contract.voice import PromptError, codes_from_flat, references_from
from ensemble.serving import wire
from ensemble.serving.own_server import end_with_it
from families.registry import prompt_builder


class TritonPythonModel:
    """Builds the prompt of the checkpoint's family from text and voice."""

    def initialize(self, args: dict) -> None:
        end_with_it()
        self.builder = prompt_builder(wire.checked_folder(args))
        self.fold = server_settings().fold_text

    def execute(self, requests: list) -> list:
        return [self._answer(request) for request in requests]

    def _answer(self, request) -> pb_utils.InferenceResponse:
        try:
            asked = wire.Accepted("fish_prompt", request)
            self._check_origin(asked.texts("checkpoint_id"))
            frames = asked.arrays["reference_frames"]
            (text,) = asked.texts("text")
            text = prompt_text(text, "text", self.fold)
            words = prompt_texts(asked.texts("reference_text"), "reference_text", self.fold)
            references = references_from(words, self._codes(asked, frames), frames)
            prompt, prefix, parts = self.builder.build_parts(text, references)
        except Exception as problem:
            return wire.error("fish_prompt", problem, request.request_id())
        return pb_utils.InferenceResponse(
            [
                wire.tensor("prompt", prompt, np.int32),
                wire.tensor("prefix_length", [prefix], np.int32),
                wire.tensor("prompt_parts", parts, np.int32),
            ]
        )

    def _codes(self, asked: wire.Accepted, frames: np.ndarray | None) -> np.ndarray | None:
        codes, flat = asked.arrays["reference_codes"], asked.arrays["codes"]
        if flat is None or not flat.size:
            return codes
        if codes is not None:
            raise PromptError("got reference_codes and codes, expected one: they are the same.")
        return codes_from_flat(flat, frames, self.builder.facts)

    def _check_origin(self, checkpoint_ids: list[str]) -> None:
        served = self.builder.facts.checkpoint_id
        for made_by in checkpoint_ids:
            if made_by != served:
                raise PromptError(
                    f"reference_codes were made by checkpoint {made_by}, this server has {served}. "
                    "Encode the recording again with this server's fish_encode."
                )
