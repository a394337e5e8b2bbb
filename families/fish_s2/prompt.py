"""Builds the prompt of the LLaMA stage: a chat whose system turn holds the voice.

It equals upstream's, except that control tokens inside a caller's text are taken as text, that
plain text is marked as speaker 0's, and that words before the first mark are kept. Each part is
tokenized on its own.
"""

from pathlib import Path

import numpy as np

from ensemble.contract.facts import Facts
from ensemble.contract.voice import Reference
from families.columns import Columns
from families.fish_s2.tokenizer import read_tokenizer
from families.fish_s2.turns import batched, check_speakers, tagged, turns_of, words_of

_TASK = "convert the provided text to speech"
_VOICE = f"{_TASK} reference to the following:\n\nText:\n"
_SPEECH = "\n\nSpeech:\n"
_SYSTEM, _USER = "<|im_start|>system\n", "<|im_start|>user\n"
_ASSISTANT, _END = "<|im_start|>assistant\n<|voice|>", "<|im_end|>\n"


class PromptBuilder(Columns):
    """The prompt builder of one checkpoint; see `families.registry.PromptBuilder`.

    Attributes:
        max_bytes: Of the turns that are spoken as one batch; upstream's API has 200.
        as_upstream: Leave plain text unmarked, drop words before the first mark, and take every
            recording whose words name no speaker for another speaker's. For comparisons.
    """

    max_bytes = 200
    as_upstream = False

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer.

        Args:
            folder: Holds tokenizer.json and checkpoint.json.

        Raises:
            FileNotFoundError: If one is missing.
        """
        self.tokenizer = read_tokenizer(folder)
        super().__init__(Facts.load(folder), self.tokenizer.encoding)

    def text(self, text: str) -> np.ndarray:
        """Columns of a caller's text, in which control words are text."""
        return super().text(self.tokenizer.normal(text))

    def build(self, text: str, references: list[Reference]) -> tuple[np.ndarray, int]:
        """Build the prompt up to the first frame; see `build_parts`."""
        table, prefix_length, parts = self.build_parts(text, references)
        return table[:, : parts[0]], prefix_length

    def build_parts(
        self, text: str, references: list[Reference]
    ) -> tuple[np.ndarray, int, list[int]]:
        """Build the prompt, in the parts between which speech is generated.

        Args:
            text: The text to speak. `<|speaker:N|>` begins a turn of speaker N.
            references: Recordings; one whose words name no speaker is speaker 0's.

        Returns:
            int32 (1 + codebooks, positions), all parts one after another; how many of the
            positions, from the first on, depend on the voice alone; positions of each part.

        Raises:
            PromptError: If text or codes are unusable, or together too long.
        """
        self.check_text(text, "text")
        for i, reference in enumerate(references):
            self.check_text(words_of(reference.text), f"reference_text[{i}]")
            self.check_codes(reference.codes, i)
        batches = self._batches(text)
        check_speakers(text, [self._marked(r.text, i) for i, r in enumerate(references)])
        voice = [*self._system(references), self.control(_USER)]
        spoken = [self.text(batch) for batch in batches]
        parts = [[*voice, spoken[0], *self._answer()]]
        parts += [
            [self.control(_END), self.control(_USER), text, *self._answer()] for text in spoken[1:]
        ]
        lengths = [sum(columns.shape[1] for columns in part) for part in parts]
        frames = sum(reference.codes.shape[1] for reference in references)
        self.check_length(sum(lengths), frames, sum(columns.shape[1] for columns in spoken))
        prefix_length = sum(columns.shape[1] for columns in voice)
        return np.concatenate([c for part in parts for c in part], axis=1), prefix_length, lengths

    def _batches(self, text: str) -> list[str]:
        lead, turns = turns_of(text)
        if not turns:
            return [text if self.as_upstream else tagged(text, 0)]
        if lead and not self.as_upstream:
            turns.insert(0, tagged(lead, 0))
        for number, turn in enumerate(turns):
            self.check_text(words_of(turn), f"turn {number} of the text ({turn[:40]!r})")
        return batched(turns, self.max_bytes)

    def _marked(self, words: str, index: int) -> str:
        return tagged(words, index if self.as_upstream else 0)

    def _system(self, references: list[Reference]) -> list[np.ndarray]:
        """Columns of the system turn."""
        if not references:
            return [self.control(part) for part in (_SYSTEM, _TASK, _END)]
        words = "\n".join(self._marked(r.text, i) for i, r in enumerate(references))
        return [
            self.control(_SYSTEM), self.control(_VOICE), self.text(words), self.control(_SPEECH),
            *(self.codes(reference.codes) for reference in references), self.control(_END),
        ]  # fmt: skip

    def _answer(self) -> list[np.ndarray]:
        """Columns between a text and its speech."""
        return [self.control(_END), self.control(_ASSISTANT)]
