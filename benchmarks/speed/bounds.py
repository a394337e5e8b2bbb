"""Lower bounds: the time that this machine needs to read and to multiply what the workload must."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from engine.kernels import rounding
from engine.kernels.cpu import int8_fault
from engine.lm.weights import GRAPHS_FILE, load

BYTES = {**rounding.BYTES, "bf16": 2, "fp16": 2, "fp32": 4}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


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
        """Rate of the fastest dtype that may be used: int8 only where weights are rounded."""
        floats = (rate for name, rate in self.multiply.items() if name != "int8")
        return self.multiply["int8"] if precision in rounding.BYTES else max(floats)


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
    def of(cls, repository: Path) -> "LlamaWork":
        """Counted from what a repository's export has written; no weights are read."""
        shape, tensors = load(repository / "fish_llama" / "1" / GRAPHS_FILE)

        def matrices(part: str) -> int:
            names = f"{part}.layers.", f"{part}.head."
            return sum(t.numel() for n, t in tensors.items() if n.startswith(names) and t.dim() > 1)

        slow = shape.slow
        kv_values = 2 * slow.layers * slow.kv_heads * slow.head_dim
        return cls(matrices("slow"), matrices("fast"), shape.num_codebooks - 1, kv_values)

    def step_s(self, batch: int, kv: int, precision: str, rates: Rates) -> float:
        """Lower bound of one decode step: it reads weights and live cache, and multiplies."""
        weights = self.slow + self.passes * self.fast
        cache = 2 if precision in rounding.BYTES else BYTES[precision]  # a bf16 cache
        read = weights * BYTES[precision] + batch * kv * self.kv_values * cache
        return max(read / rates.read, 2 * weights * batch / rates.best_multiply(precision))

    def prefill_s(self, positions: int, precision: str, rates: Rates) -> float:
        """Lower bound of pushing so many prompt positions through the slow transformer."""
        return 2 * self.slow * positions / rates.best_multiply(precision)
