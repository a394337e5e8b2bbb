"""Per-row tensors of the running batch, beside the cache."""

import torch

from engine.lm.runner import Runner


class Rows:
    """What the next step needs of each row from the last one.

    Attributes:
        options: float32 (3, slots), temperature, top_p, repetition_penalty.
        top_k: int64 (slots,).
        logits: float32 (slots, slow choices), of the slow transformer.
        state: (slots, state_dim), for the fast one.
    """

    def __init__(self, runner: Runner, slots: int) -> None:
        device = runner.device
        self._in_bfloat16 = runner.facts.bfloat16_options
        self.options = torch.zeros(3, slots, device=device)
        self.top_k = torch.zeros(slots, dtype=torch.int64, device=device)
        self.logits = torch.zeros(slots, runner.slow_choices, device=device)
        self.state = torch.zeros(slots, runner.state_dim, device=device, dtype=runner.state_dtype)

    def begin(
        self,
        row: int,
        temperature: float,
        top_p: float,
        repetition_penalty: float,
        top_k: int = 0,
    ) -> None:
        """Give a row to a new request."""
        options = torch.tensor([temperature, top_p if temperature > 0 else 0.0, repetition_penalty])
        if self._in_bfloat16:
            # fish-speech 0.1.0 does so in `generate`: 0.8 is 0.80078125.
            options = options.bfloat16().float()
        self.options[:, row] = options.to(self.options.device)
        self.top_k[row] = top_k

    def drop(self, row: int, last: int) -> None:
        """Free a row by moving the last one into it."""
        if row == last:
            return
        self.logits[row], self.state[row] = self.logits[last], self.state[last]
        self.options[:, row] = self.options[:, last]
        self.top_k[row] = self.top_k[last]
