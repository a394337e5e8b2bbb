"""Between the indices of logits, the tokens of a prompt and the codes of a frame."""

import torch
from torch import Tensor

from ensemble.contract.facts import Facts


class Vocabulary:
    """What a checkpoint's facts say of its tokens.

    Attributes:
        end_choice: Index of the end token among the logits of the slow transformer.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.end_choice = facts.im_end_id if facts.full_vocabulary else facts.num_semantic

    def token_of(self, choice: Tensor) -> Tensor:
        """Token ids of choices among the slow logits."""
        facts = self.facts
        if facts.full_vocabulary:
            return choice
        token = choice + facts.semantic_begin_id
        return torch.where(choice == facts.num_semantic, facts.im_end_id, token)

    def previous_choices(self, recent: Tensor) -> Tensor:
        """Choices that the repetition penalty of the slow logits applies to; below 0 is none.

        Args:
            recent: int64 (rows, 1 + codebooks, PENALTY_FRAMES), tokens and codes of recent frames.
        """
        if self.facts.full_vocabulary:
            # Upstream (`decode_one_token_ar`) takes a column for a row: all of one recent frame.
            return recent[:, :, 0]
        return recent[:, 0] - self.facts.semantic_begin_id

    def is_semantic(self, token: Tensor) -> Tensor:
        """Whether tokens stand for codes."""
        code = token - self.facts.semantic_begin_id
        return (code >= 0) & (code < self.facts.num_semantic)

    def semantic_code(self, token: Tensor) -> Tensor:
        """Code of a token; as upstream has it, one that is not semantic counts as code 0."""
        return (token - self.facts.semantic_begin_id).clamp(0, self.facts.num_semantic - 1)
