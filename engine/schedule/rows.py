"""Per-row tensors of the running batch, beside the cache."""

import torch

from engine.lm.runner import Runner


class Rows:
    """What the next step needs of each row from the last one.

    Attributes:
        options: float32 (3, slots), temperature, top_p, repetition_penalty.
        logits: float32 (slots, slow choices), of the slow transformer.
        state: (slots, state_dim), for the fast one.
    """

    def __init__(self, runner: Runner, slots: int) -> None:
        device = runner.device
        self.options = torch.zeros(3, slots, device=device)
        self.logits = torch.zeros(slots, runner.slow_choices, device=device)
        self.state = torch.zeros(slots, runner.state_dim, device=device, dtype=runner.state_dtype)

    def begin(self, row: int, temperature: float, top_p: float, repetition_penalty: float) -> None:
        """Give a row to a new request."""
        options = torch.tensor([temperature, top_p if temperature > 0 else 0.0, repetition_penalty])
        # Upstream holds its options in bfloat16 (`generate`): 0.8 is 0.80078125.
        self.options[:, row] = options.bfloat16().float().to(self.options.device)

    def drop(self, row: int, last: int) -> None:
        """Free a row by moving the last one into it."""
        if row == last:
            return
        self.logits[row], self.state[row] = self.logits[last], self.state[last]
        self.options[:, row] = self.options[:, last]
