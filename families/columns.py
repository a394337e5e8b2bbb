"""Columns of a prompt: what the prompt builders of all families do alike.

A prompt is a table, int32 (1 + codebooks, positions): a token in row 0, and below a semantic token
the codes of its frame.
"""

import numpy as np
import tiktoken

from ensemble.contract.facts import Facts
from ensemble.contract.text import MAX_TEXT_CHARACTERS
from ensemble.contract.voice import PromptError

__all__ = ["MAX_TEXT_CHARACTERS", "Columns"]


class Columns:
    """Makes and checks columns for one checkpoint.

    Attributes:
        facts: What the checkpoint is.
        encoding: Its tokenizer.
    """

    def __init__(self, facts: Facts, encoding: tiktoken.Encoding) -> None:
        self.facts, self.encoding = facts, encoding

    def tokens(self, tokens: list[int]) -> np.ndarray:
        """Columns of tokens without codes."""
        columns = np.zeros((1 + self.facts.num_codebooks, len(tokens)), np.int32)
        columns[0] = tokens
        return columns

    def text(self, text: str) -> np.ndarray:
        """Columns of a caller's text, in which control words are text."""
        return self.tokens(self.encoding.encode_ordinary(text))

    def control(self, text: str) -> np.ndarray:
        """Columns of our own text, in which control words are tokens where there are such."""
        return self.tokens(self.encoding.encode(text, allowed_special="all"))

    def codes(self, codes: np.ndarray) -> np.ndarray:
        """Columns of frames, int (codebooks, frames)."""
        tokens = codes[:1] + self.facts.semantic_begin_id
        return np.concatenate([tokens, codes]).astype(np.int32)

    def check_text(self, text: str, name: str) -> None:
        """Raise a `PromptError` for a text that cannot be spoken."""
        if not text.strip():
            raise PromptError(f"{name} is empty, expected words to say.")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise PromptError(
                f"{name} has {len(text)} characters, expected at most {MAX_TEXT_CHARACTERS}. "
                "Split it into sentences and send them one by one."
            )

    def check_codes(self, codes: np.ndarray, index: int) -> None:
        """Raise a `PromptError` for codes that are not of this checkpoint."""
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

    def check_length(self, positions: int, frames: int, text: int) -> None:
        """Raise a `PromptError` for a prompt that leaves no room for the answer.

        Args:
            positions: Of the prompt.
            frames: Those of them that are frames of references.
            text: Those of them that are the text to speak.
        """
        limit = self.facts.max_prompt_length
        if positions > limit:
            fit = max(0, limit - (positions - frames))
            raise PromptError(
                f"the prompt has {positions} positions ({frames} of them reference frames, "
                f"{text} of text), expected at most {limit}. "
                "Split the text into sentences, or use a shorter reference: beside these words "
                f"{self.facts.seconds(fit):.1f} s of recordings fit."
            )
