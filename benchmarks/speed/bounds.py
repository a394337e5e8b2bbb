"""Lower bounds: the time that this machine needs to read and to multiply what the workload must."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from engine.kernels.cpu import int8_fault

BYTES = {"int8": 1, "bf16": 2, "fp16": 2, "fp32": 4}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
RESIDUAL_CHOICES = 1024  # logits of the fast transformer that can be sampled


@dataclass(frozen=True)
class Rates:
    """Rates of this machine.

    Attributes:
        read: Bytes per second from memory.
        multiply: Operations per second of a matrix product, by dtype: those that the CPU has.
    """

    read: float
    multiply: dict[str, float]

    @classmethod
    def measured(cls) -> "Rates":
        # Without its instructions torch emulates bfloat16, at a small part of float32's rate.
        names = ("bf16", "fp32") if torch.cpu._is_avx512_bf16_supported() else ("fp32",)
        multiply = {name: machine.matmul_flops_per_s(DTYPES[name]) for name in names}
        if int8_fault() is None:
            multiply["int8"] = machine.int8_ops_per_s()
        return cls(machine.read_bytes_per_s(), multiply)

    def described(self) -> dict[str, Any]:
        """The rates and the machine, for a result's JSON."""
        return {
            "is": machine.describe(),
            "read_gb_per_s": self.read / 1e9,
            "tflops": {name: rate / 1e12 for name, rate in self.multiply.items()},
        }

    def best_multiply(self, precision: str = "") -> float:
        """Rate of the fastest dtype that may be used: int8 only for the precision of that name."""
        floats = (rate for name, rate in self.multiply.items() if name != "int8")
        return self.multiply["int8"] if precision == "int8" else max(floats)


@dataclass(frozen=True)
class LlamaWork:
    """Weights of the LLaMA stage that a frame reads, counted in numbers.

    Attributes:
        slow: Weights of the slow transformer, with its head over the tokens that can be sampled.
        fast: Weights of the fast transformer; they are read once for each residual codebook.
        passes: How often a frame goes through the fast transformer.
        kv_values: Keys and values that a cached position holds.
    """

    slow: int
    fast: int
    passes: int
    kv_values: int

    @classmethod
    def of(cls, checkpoint: Path) -> "LlamaWork":
        """Counted from a checkpoint's config.json."""
        from families.fish_s1.upstream import DualARModelArgs  # slow, and needed only here

        c: Any = DualARModelArgs(**json.loads((checkpoint / "config.json").read_text("utf-8")))
        slow_layer = _layer(c.dim, c.n_head, c.n_local_heads, c.head_dim, c.intermediate_size)
        fast_layer = _layer(
            c.fast_dim, c.fast_n_head, c.fast_n_local_heads, c.fast_head_dim,
            c.fast_intermediate_size,
        )  # fmt: skip
        return cls(
            c.n_layer * slow_layer + (c.codebook_size + 1) * c.dim,
            c.n_fast_layer * fast_layer + min(RESIDUAL_CHOICES, c.codebook_size) * c.fast_dim,
            c.num_codebooks - 1,
            2 * c.n_layer * c.n_local_heads * c.head_dim,
        )

    def step_s(self, batch: int, kv: int, precision: str, rates: Rates) -> float:
        """Lower bound of one decode step: it reads weights and live cache, and multiplies."""
        weights = self.slow + self.passes * self.fast
        cache = 2 if precision == "int8" else BYTES[precision]  # int8 keeps a bf16 cache
        read = weights * BYTES[precision] + batch * kv * self.kv_values * cache
        return max(read / rates.read, 2 * weights * batch / rates.best_multiply(precision))

    def prefill_s(self, positions: int, precision: str, rates: Rates) -> float:
        """Lower bound of pushing so many prompt positions through the slow transformer."""
        return 2 * self.slow * positions / rates.best_multiply(precision)


def _layer(dim: int, heads: int, kv_heads: int, head_dim: int, intermediate: int) -> int:
    return dim * head_dim * (2 * heads + 2 * kv_heads) + 3 * dim * intermediate
