"""The reference model: fish-speech 0.1.0's class, but for what the fast transformer is fed."""

from typing import Any

from torch import Tensor

from families.fish_s1.upstream import BaseTransformer, DualARTransformer


class S2Transformer(DualARTransformer):
    """Feeds the fast transformer the slow state behind the final norm.

    Greedy codes of this class equal those of upstream's main on the recorded cases of
    `tests/families/test_s2_golden.py`.
    """

    def forward_generate(self, x: Tensor, input_pos: Tensor | None = None, **parts: Any) -> Any:
        """As the class's own, but for the state."""
        result = BaseTransformer.forward_generate(self, x, input_pos, **parts)
        result.hidden_states = self.fast_project_in(self.norm(result.hidden_states))
        return result
