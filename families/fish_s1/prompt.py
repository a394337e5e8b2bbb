"""Builds the prompt of the LLaMA stage from a text and a voice as codes.

It equals upstream's, except that control tokens inside a caller's text are taken as text.
Source: `ContentSequence` and `generate_long`, fish-speech 0.1.0.
"""

import base64
import json
from pathlib import Path

import numpy as np
import tiktoken

from ensemble.contract.facts import Facts
from ensemble.contract.voice import Reference
from families.columns import MAX_TEXT_CHARACTERS, Columns

__all__ = ["MAX_TEXT_CHARACTERS", "PromptBuilder"]

# Source: FISH_TIKTOKEN_PATTERN, fish-speech 0.1.0, tokenizer.py, with its `(\?!`.
_PIECES = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"\p{P}",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(\?!\S)",
        r"\s+",
    ]
)


class PromptBuilder(Columns):
    """The prompt builder of one checkpoint; see `families.registry.PromptBuilder`."""

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer.

        Args:
            folder: Holds tokenizer.tiktoken, special_tokens.json and checkpoint.json.

        Raises:
            FileNotFoundError: If one is missing.
        """
        facts = Facts.load(folder)
        lines = (folder / "tokenizer.tiktoken").read_text(encoding="utf-8").split("\n")
        pairs = (line.split() for line in lines if line)
        ranks = {base64.b64decode(t): int(rank) for t, rank in pairs if t != "="}
        names = json.loads((folder / "special_tokens.json").read_text(encoding="utf-8"))
        # Upstream ignores the ids in the file: only the order of the names counts.
        self.special = {name: len(ranks) + i for i, name in enumerate(names)}
        encoding = tiktoken.Encoding(
            "fish", pat_str=_PIECES, mergeable_ranks=ranks, special_tokens=self.special
        )
        super().__init__(facts, encoding)

    def build(self, text: str, references: list[Reference]) -> tuple[np.ndarray, int]:
        """Build the prompt.

        Args:
            text: The text to speak.
            references: Recordings of one voice; empty for the checkpoint's own voice.

        Returns:
            int32 (1 + codebooks, positions), and how many of the positions, from the first on,
            depend on the voice alone.

        Raises:
            PromptError: If text or codes are unusable, or together too long.
        """
        self.check_text(text, "text")
        columns = [self.control("<|interleave|>")]
        for i, reference in enumerate(references):
            self.check_text(reference.text, f"reference_text[{i}]")
            self.check_codes(reference.codes, i)
            columns += [
                self.control("<|speaker:0|>"),  # spelled out where a checkpoint has no such token
                self.text(reference.text),
                self.codes(reference.codes),
                self.control("<|im_end|>"),
            ]
        columns.append(self.control("<|speaker:0|>"))
        prefix_length = sum(c.shape[1] for c in columns)
        columns.append(self.text(text))
        prompt = np.concatenate(columns, axis=1)
        frames = sum(r.codes.shape[1] for r in references)
        self.check_length(prompt.shape[1], frames, columns[-1].shape[1])
        return prompt, prefix_length

    def build_parts(
        self, text: str, references: list[Reference]
    ) -> tuple[np.ndarray, int, list[int]]:
        """See `families.registry.PromptBuilder`: S1 speaks a text in one part."""
        prompt, prefix_length = self.build(text, references)
        return prompt, prefix_length, [prompt.shape[1]]
