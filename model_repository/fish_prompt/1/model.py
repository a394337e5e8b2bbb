"""fish_prompt: text, and a voice as codes -> prompt INT32 (1 + codebooks, positions),
prefix_length, prompt_parts. See `ensemble.contract.voice` and `families.registry`.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract.settings import server_settings
from ensemble.contract.text import prompt_text
from ensemble.contract.voice import PromptError, codes_from_flat, references_from
from ensemble.serving import wire
from families.registry import prompt_builder


class TritonPythonModel:
    """Builds the prompt of the checkpoint's family from text and voice."""

    def initialize(self, args: dict) -> None:
        self.builder = prompt_builder(wire.version_folder(args))
        self.fold = server_settings().fold_text

    def execute(self, requests: list) -> list:
        return [self._answer(request) for request in requests]

    def _answer(self, request) -> pb_utils.InferenceResponse:
        try:
            wire.parameters("fish_prompt", request)
            self._check_origin(wire.texts(request, "checkpoint_id"))
            frames = wire.array(request, "reference_frames")
            (text,) = self._texts(request, "text")
            references = references_from(
                self._texts(request, "reference_text"),
                self._codes(request, frames),
                frames,
            )
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

    def _codes(self, request, frames: np.ndarray | None) -> np.ndarray | None:
        codes, flat = wire.array(request, "reference_codes"), wire.array(request, "codes")
        if flat is None or not flat.size:
            return codes
        if codes is not None:
            raise PromptError("got reference_codes and codes, expected one: they are the same.")
        return codes_from_flat(flat, frames, self.builder.facts)

    def _texts(self, request, name: str) -> list[str]:
        found = wire.texts(request, name)
        names = [name] if name == "text" else [f"{name}[{i}]" for i in range(len(found))]
        return [prompt_text(*pair, self.fold) for pair in zip(found, names, strict=True)]

    def _check_origin(self, checkpoint_ids: list[str]) -> None:
        served = self.builder.facts.checkpoint_id
        for made_by in checkpoint_ids:
            if made_by != served:
                raise PromptError(
                    f"reference_codes were made by checkpoint {made_by}, this server has {served}. "
                    "Encode the recording again with this server's fish_encode."
                )
