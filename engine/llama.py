"""The exported graphs, loaded, and the numbers that go with each row of a batch."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.sampler import WINDOW
from engine.settings import Settings
from ensemble.facts import Facts

GRAPHS_FILE = "llama.pt"


class Llama:
    """`llama.pt`: one file, one set of weights, four methods.

    `prefill`, `decode_step`, `sample_token` and `fast_loop`; see `engine.graphs` for their
    arguments.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Raises:
        FileNotFoundError: If nothing has been exported into this folder.
        """
        path = Path(folder) / GRAPHS_FILE
        self.facts = Facts.load(folder)
        if not path.is_file():
            raise FileNotFoundError(
                f"fish_llama: {path} is missing. Make it with: make export CHECKPOINT=DIR"
            )
        graphs = torch.jit.load(str(path), map_location=settings.device)
        self.graphs = graphs.to(settings.dtype).eval()
        self.device, self.dtype = settings.device, settings.dtype
        self.fast_choices = int(self.graphs.fast.head.shape[0])
        self.slow_choices = int(self.graphs.slow.head.shape[0])

    @property
    def end_choice(self) -> int:
        """Index of the end token among the logits of the slow transformer."""
        facts = self.facts
        return facts.im_end_id if facts.full_vocabulary else facts.num_semantic

    def token_of(self, choice: Tensor) -> Tensor:
        """Token ids of choices among the slow logits."""
        facts = self.facts
        if facts.full_vocabulary:
            return choice
        token = choice + facts.semantic_begin_id
        return torch.where(choice == facts.num_semantic, facts.im_end_id, token)

    def semantic_code(self, token: Tensor) -> Tensor:
        """Upstream: a token that is not semantic counts as code 0."""
        return (token - self.facts.semantic_begin_id).clamp(0, self.facts.num_semantic - 1)


class Rows:
    """Per-row tensors of the running batch: what the next step needs from the last ones.

    Attributes:
        columns: int64 (slots, 1 + codebooks), the last frame, as the slow transformer's input.
        previous_tokens: int64 (slots, WINDOW), choices for the repetition penalty, -1 for none.
        previous_codes: int64 (slots, codebooks - 1, WINDOW), likewise.
        options: float32 (3, slots), temperature, top_p, repetition_penalty.
        logits: float32 (slots, choices), of the slow transformer.
        state: (slots, fast_dim), for the fast one.
    """

    def __init__(self, llama: Llama, slots: int) -> None:
        books, device = llama.facts.num_codebooks, llama.device

        def integers(*shape: int) -> Tensor:
            return torch.full(shape, -1, dtype=torch.int64, device=device)

        self.columns = integers(slots, 1 + books)
        self.previous_tokens = integers(slots, WINDOW)
        self.previous_codes = integers(slots, books - 1, WINDOW)
        self.options = torch.zeros(3, slots, device=device)
        self.logits = torch.zeros(slots, llama.slow_choices, device=device)
        fast_dim = llama.graphs.fast.embeddings.weight.shape[1]
        self.state = torch.zeros(slots, fast_dim, device=device, dtype=llama.dtype)

    def begin(self, row: int, temperature: float, top_p: float, repetition_penalty: float) -> None:
        """Make a row ready for a new request."""
        self.previous_tokens[row] = -1
        self.previous_codes[row] = -1
        options = torch.tensor([temperature, top_p if temperature > 0 else 0.0, repetition_penalty])
        # Upstream holds its options in bfloat16 (`generate`): 0.8 is 0.80078125.
        self.options[:, row] = options.bfloat16().float().to(self.options.device)

    def remember(self, count: int, choices: Tensor, columns: Tensor) -> None:
        """Push one frame into the windows of rows 0 to count - 1."""
        self.columns[:count] = columns
        tokens, codes = self.previous_tokens[:count], self.previous_codes[:count]
        self.previous_tokens[:count] = torch.cat([tokens[:, 1:], choices[:, None]], dim=1)
        self.previous_codes[:count] = torch.cat([codes[:, :, 1:], columns[:, 2:, None]], dim=2)

    def drop(self, row: int, last: int) -> None:
        """Free a row by moving the last active one into it."""
        if row == last:
            return
        for rows in (self.columns, self.previous_tokens, self.previous_codes, self.logits):
            rows[row] = rows[last]
        self.state[row] = self.state[last]
        self.options[:, row] = self.options[:, last]


def stacked_noise(draws: list[np.ndarray], slow_choices: int, codebooks: int) -> tuple:
    """Per-row noise -> for the token (rows, choices), for the fast loop (rows, books, choices)."""
    noise = torch.from_numpy(np.stack(draws))
    slow, fast = noise[:, :slow_choices], noise[:, slow_choices:]
    return slow, fast.unflatten(1, (codebooks - 1, -1))
