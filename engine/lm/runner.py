"""What a scheduler needs of a language model, whatever computes it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.lm.vocabulary import Vocabulary
from ensemble.contract.facts import Facts

# Frames that the repetition penalty looks back on.
# Source: `decode_n_tokens`, fish-speech 0.1.0, models/text2semantic/inference.py.
PENALTY_FRAMES = 16


class NewPositions(NamedTuple):
    """The inputs of `Runner.extend`: new positions of some rows, and the cache they continue.

    Attributes:
        tokens: int64 (rows, 1 + codebooks, time), padded on the right.
        lengths: int64 (rows,), positions of `tokens` that count, >= 1.
        past_lengths: int64 (rows,), positions of the cache that count.
        keys, values: (layers, rows, kv heads, positions, head_dim), with room for all of `tokens`
            behind the past. The new ones are written there in place; what padding writes is
            overwritten or hidden later.
        shared: int64 (2, rows): for each row, another one whose cache begins with the same keys
            and values, and for how many positions. Kernels read those positions there, once for
            all rows that share them. None: no row shares any.
    """

    tokens: Tensor
    lengths: Tensor
    past_lengths: Tensor
    keys: Tensor
    values: Tensor
    shared: Tensor | None = None


class Draw(NamedTuple):
    """What the random numbers of one request's next frame are a function of."""

    seed: int
    frame: int


class Runner(Protocol):
    """A language model that is ready to run.

    Attributes:
        facts: What its checkpoint is.
        vocabulary: Between the indices of its logits, tokens and codes.
        device: Where it runs.
        dtype: Of keys and values.
        state_dtype, state_dim: Of the fast transformer's input, a row of `extend`'s second result.
        slow_choices: Logits of the slow transformer.
        fixed_positions: Positions of every row of the cache whose memory must not move; 0 if it
            may.
        reads_shared: Whether it makes use of `NewPositions.shared`.
    """

    facts: Facts
    vocabulary: Vocabulary
    device: torch.device
    dtype: torch.dtype
    state_dtype: torch.dtype
    state_dim: int
    slow_choices: int
    fixed_positions: int
    reads_shared: bool

    def extend(self, inputs: NewPositions) -> tuple[Tensor, Tensor]:
        """Run new positions through the slow transformer.

        Returns:
            Logits (rows, slow_choices) and states (rows, state_dim) at each row's last position.
        """
        ...

    def sample_token(
        self,
        logits: Tensor,
        previous: Tensor,
        temperature: Tensor,
        top_p: Tensor,
        repetition_penalty: Tensor,
        noise: Tensor,
        top_k: Tensor | None = None,
    ) -> Tensor:
        """Choose among the slow logits: int64 (rows,). See `engine.lm.sampler.sample`."""
        ...

    def fast_loop(
        self,
        state: Tensor,
        semantic: Tensor,
        previous: Tensor,
        temperature: Tensor,
        top_p: Tensor,
        repetition_penalty: Tensor,
        noise: Tensor,
        top_k: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample the codes of a frame. See `engine.lm.graphs.FastGraph.forward`."""
        ...

    def noise(self, draws: Sequence[Draw], rows: int) -> tuple[Tensor, Tensor]:
        """Make what the choices of the next frame are drawn with.

        Args:
            draws: Of the active requests, in the order of their rows.
            rows: Rows that the step computes, see `rows_for`.

        Returns:
            What `sample_token` takes, (rows, ...), and what `fast_loop` takes,
            (rows, codebooks - 1, ...).
        """
        ...

    def second_noise(self, draws: Sequence[Draw], rows: int) -> Tensor:
        """Make what a second draw of the frame's token is drawn with: `noise`'s first result."""
        ...

    def to_device(self, *tensors: Tensor) -> list[Tensor]:
        """Bring tensors of int64 from the CPU to where it runs, without waiting for it."""
        ...

    def new_cache(self, rows: int, positions: int) -> Tensor:
        """Zeros for keys or for values: (layers, rows, kv heads, positions, head_dim)."""
        ...

    def rows_for(self, count: int, slots: int) -> int:
        """Rows that a step computes for `count` requests of at most `slots`."""
        ...

    def positions_for(self, time: int) -> int:
        """Positions that are computed for a prompt's slice of `time`, padding behind it."""
        ...

    def warm_up_prompts(self) -> tuple[int, ...]:
        """Positions of prompts whose first run is slow."""
        ...

    def warm_up_counts(self, most: int) -> set[int]:
        """Batch sizes, up to `most`, whose first step is slow."""
        ...
