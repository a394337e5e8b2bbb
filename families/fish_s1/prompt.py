"""Text and a voice as codes -> the prompt of the LLaMA stage.

Equal to upstream's, with one difference: control tokens in a caller's text are text.
Source: `ContentSequence` and `generate_long`, fish-speech 0.1.0.
"""

import base64
import json
from pathlib import Path

import numpy as np
import tiktoken

from ensemble.contract.facts import Facts
from ensemble.contract.voice import PromptError, Reference

MAX_TEXT_CHARACTERS = 20_000  # far beyond what fits; keeps the tokenizer from longer ones

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


class PromptBuilder:
    """Holds the tokenizer of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        """Args:
            folder: With tokenizer.tiktoken, special_tokens.json and checkpoint.json.

        Raises:
            FileNotFoundError: If one is missing.
        """
        self.facts = Facts.load(folder)
        lines = (folder / "tokenizer.tiktoken").read_text(encoding="utf-8").split("\n")
        pairs = (line.split() for line in lines if line)
        ranks = {base64.b64decode(t): int(rank) for t, rank in pairs if t != "="}
        names = json.loads((folder / "special_tokens.json").read_text(encoding="utf-8"))
        # Upstream ignores the ids in the file: only the order of the names counts.
        self.special = {name: len(ranks) + i for i, name in enumerate(names)}
        self.encoding = tiktoken.Encoding(
            "fish", pat_str=_PIECES, mergeable_ranks=ranks, special_tokens=self.special
        )

    def build(self, text: str, references: list[Reference]) -> tuple[np.ndarray, int]:
        """Put the prompt together.

        Args:
            text: What to say.
            references: Of one voice; empty for the checkpoint's own.

        Returns:
            int32 (1 + codebooks, positions), and how many of the positions depend on the voice
            alone.

        Raises:
            PromptError: If text or codes are unusable, or together too long.
        """
        self._check_text(text, "text")
        columns = [self._control("<|interleave|>")]
        for i, reference in enumerate(references):
            self._check_text(reference.text, f"reference_text[{i}]")
            self._check_codes(reference.codes, i)
            columns += [
                self._control("<|speaker:0|>"),
                self._text(reference.text),
                self._codes(reference.codes),
                self._control("<|im_end|>"),
            ]
        columns.append(self._control("<|speaker:0|>"))
        prefix_length = sum(c.shape[1] for c in columns)
        columns.append(self._text(text))
        prompt = np.concatenate(columns, axis=1)
        limit = self.facts.max_prompt_length
        if prompt.shape[1] > limit:
            codes = sum(r.codes.shape[1] for r in references)
            fit = max(0, limit - (prompt.shape[1] - codes))
            raise PromptError(
                f"the prompt has {prompt.shape[1]} positions ({codes} of them reference frames, "
                f"{columns[-1].shape[1]} of text), expected at most {limit}. "
                "Split the text into sentences, or use a shorter reference: beside these words "
                f"{self.facts.seconds(fit):.1f} s of recordings fit."
            )
        return prompt, prefix_length

    def _tokens(self, tokens: list[int]) -> np.ndarray:
        column = np.zeros((1 + self.facts.num_codebooks, len(tokens)), np.int32)
        column[0] = tokens
        return column

    def _text(self, text: str) -> np.ndarray:
        return self._tokens(self.encoding.encode_ordinary(text))

    def _control(self, name: str) -> np.ndarray:
        # A checkpoint may lack <|speaker:0|>; upstream then spells it out.
        return self._tokens(self.encoding.encode(name, allowed_special="all"))

    def _codes(self, codes: np.ndarray) -> np.ndarray:
        tokens = codes[:1] + self.facts.semantic_begin_id
        return np.concatenate([tokens, codes]).astype(np.int32)

    def _check_text(self, text: str, name: str) -> None:
        if not text.strip():
            raise PromptError(f"{name} is empty, expected words to say.")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise PromptError(
                f"{name} has {len(text)} characters, expected at most {MAX_TEXT_CHARACTERS}. "
                "Split it into sentences and send them one by one."
            )

    def _check_codes(self, codes: np.ndarray, index: int) -> None:
        name, sizes = f"reference_codes[{index}]", self.facts.codebook_sizes
        if codes.ndim != 2 or codes.shape[0] != len(sizes):
            raise PromptError(
                f"{name} has shape {list(codes.shape)}, expected [{len(sizes)}, frames]. "
                "Encode the recording with this server's fish_encode."
            )
        if codes.shape[1] == 0:
            raise PromptError(f"{name} has no frames although it has a text. Leave out both.")
        limits = np.array(sizes)[:, None]
        wrong = np.argwhere((codes < 0) | (codes >= limits))
        if len(wrong):
            book, frame = wrong[0]
            raise PromptError(
                f"{name} holds {codes[book, frame]} in codebook {book}, frame {frame}, "
                f"expected 0 to {sizes[book] - 1}. Were they made with another checkpoint?"
            )
