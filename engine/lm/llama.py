"""The exported graphs, loaded, and the numbers that go with each row of a batch."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.kernels import transformer as kernels
from engine.lm import on_gpu as gpu
from engine.lm.graphs import LlamaGraphs
from engine.lm.layers import layers_of
from engine.lm.linear import alike_in_company, linear_for
from engine.lm.sampler import WINDOW
from engine.lm.weights import GRAPHS_FILE, LlamaShape, Weights, load
from engine.schedule.request import Active
from ensemble.contract.facts import Facts
from ensemble.contract.settings import Settings

_ALIGNED = 64  # bytes: a row of the cache lies in lines of its own


def graphs_for(
    shape: LlamaShape, tensors: dict[str, Tensor], settings: Settings
) -> tuple[LlamaGraphs, str | None]:
    """By kernels, or by torch where these cannot be had: then why."""
    device, dtype, fault = settings.device, settings.dtype, None
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        choices = tensors["slow.head.weight"].shape[0]
        fault = gpu.fault() if choices <= gpu.MAX_CHOICES else f"it samples from {choices} tokens"
        if fault is None:
            weights = Weights(tensors, lambda t: t.to(device, dtype))
            return gpu.GpuGraphs(shape, weights).eval().requires_grad_(False), None
    if device.type == "cpu" and dtype != torch.float16:
        fault = kernels.fault()
        if fault is None:
            weights = Weights(tensors, lambda t: t.to(dtype))
            return kernels.KernelGraphs(shape, weights, settings.int8).eval(), None
        if not torch.cpu._is_avx512_bf16_supported():
            dtype = torch.float32  # torch emulates bfloat16 then, several times slower
    weights = Weights(tensors, lambda t: t.to(device, dtype))
    layer, exact = layers_of(linear_for(device, settings.int8)), linear_for(device)
    return LlamaGraphs(shape, weights, layer, exact).eval().requires_grad_(False), fault


class Llama:
    """`llama.pt`, its weights packed for the device, its graphs traced.

    `extend`, `sample_token` and `fast_loop`; see `engine.lm.graphs` for their arguments.
    `exact_in_company` says whether products round the same for any batch on this machine;
    `no_kernels`, why it does without its kernels; `is_recorded`, whether steps are replayed, as on
    a GPU.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Raises:
        FileNotFoundError: If nothing has been exported into this folder.
        ValueError: If an older version has exported it.
        """
        shape, tensors = load(Path(folder) / GRAPHS_FILE)
        self.facts = Facts.load(folder)
        self.device = settings.device
        graphs, self.no_kernels = graphs_for(shape, tensors, settings)
        self.fast_choices, self.slow_choices = graphs.fast.choices, graphs.slow.choices
        self.fast_dim = graphs.fast.embeddings.weight.shape[1]
        self.dtype = graphs.slow.norm.weight.dtype
        self.activations = self.dtype
        if isinstance(graphs, kernels.KernelGraphs):
            self.activations, self.exact_in_company = torch.float32, True
        else:
            self.exact_in_company = self._alike(graphs)
        self.weight_bytes_per_step = self._weight_bytes(tensors, settings.int8)
        self.is_recorded = isinstance(graphs, gpu.GpuGraphs)
        traced: Any = graphs  # a trace on a GPU would be compiled anew for each shape
        if isinstance(graphs, gpu.GpuGraphs):
            traced = gpu.Recorded(graphs)
        elif self.device.type == "cpu":
            traced = self._traced(graphs)
        self._extend: Callable[..., tuple[Tensor, Tensor]] = traced.extend
        self.sample_token: Callable[..., Tensor] = traced.sample_token
        self.fast_loop: Callable[..., tuple[Tensor, Tensor]] = traced.fast_loop

    def extend(
        self,
        tokens: Tensor,
        lengths: Tensor,
        past_lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        shared: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `SlowGraph.extend`."""
        if shared is None:
            shared = torch.zeros_like(lengths).expand(2, -1)
        return self._extend(tokens, lengths, past_lengths, keys, values, shared)

    def new_cache(self, rows: int, positions: int) -> Tensor:
        """Zeros for keys or values: (layers, rows, kv heads, positions, head_dim)."""
        facts = self.facts
        extents = (facts.num_layers, rows, facts.num_kv_heads, positions, facts.head_dim)
        if self.device.type != "cpu":
            return torch.zeros(extents, dtype=self.dtype, device=self.device)
        # NumPy's take no time and no memory, and large pages, as they are written.
        size = math.prod(extents) * self.dtype.itemsize
        memory = np.zeros(size + _ALIGNED, np.uint8)
        begin = -memory.ctypes.data % _ALIGNED
        return torch.from_numpy(memory[begin : begin + size]).view(self.dtype).view(extents)

    @staticmethod
    def _alike(graphs: LlamaGraphs) -> bool:
        layer: Any = graphs.slow.layers[0]
        embeddings = graphs.slow.embeddings.weight
        return all(
            alike_in_company(linear, embeddings.shape[1], embeddings)
            for linear in (layer.attention.wqkv, layer.gate_up, graphs.slow.head)
        )

    def _weight_bytes(self, tensors: dict[str, Tensor], int8: bool) -> int:
        """What one step reads of the weights: the fast transformer's once per codebook."""
        total = 0
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            times = self.facts.num_codebooks - 1 if part == "fast" else 1
            is_rounded = int8 and rest.startswith("layers.") and tensor.dim() == 2
            if rest.startswith(("layers.", "norm.", "head.")):
                total += times * tensor.numel() * (1 if is_rounded else self.dtype.itemsize)
        return total

    @torch.no_grad()
    def _traced(self, graphs: LlamaGraphs) -> Any:
        """With two rows, of different lengths, and a past; no size of these is in the result."""
        books, device = self.facts.num_codebooks, self.device
        keys, values = self.new_cache(2, 9), self.new_cache(2, 9)
        lengths = torch.tensor([3, 2], device=device)
        tokens = torch.zeros(2, 1 + books, 3, dtype=torch.int64, device=device)
        ones = torch.ones(2, device=device)
        logits = torch.zeros(2, self.slow_choices, device=device)
        previous = torch.full((2, books - 1, WINDOW), -1, device=device)
        state = torch.zeros(2, self.fast_dim, dtype=self.activations, device=device)
        noise = torch.ones(2, books - 1, self.fast_choices, device=device)
        inputs = {
            "extend": (tokens, lengths, lengths, keys, values, torch.zeros_like(tokens[:, 0, :2])),
            "sample_token": (logits, previous[:, 0], ones, ones, ones, torch.ones_like(logits)),
            "fast_loop": (state, lengths, previous, ones, ones, ones, noise),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, and that it is deprecated
            return torch.jit.trace_module(graphs, inputs, check_trace=False)

    def rows_for(self, count: int, slots: int) -> int:
        """Rows that a step computes for so many requests: few numbers where each is recorded."""
        return min(slots, max(2, 1 << (count - 1).bit_length())) if self.is_recorded else count

    def noise(self, actives: Sequence[Active], rows: int) -> tuple[Tensor, Tensor]:
        """What the next frame's choices are drawn with, a function of seed and frame's number.

        Returns:
            For the token (rows, ...), and for the fast loop (rows, codebooks - 1, ...): what
            `sample_token` and `fast_loop` take.
        """
        books = self.facts.num_codebooks
        if not self.is_recorded:
            need = self.slow_choices + (books - 1) * self.fast_choices
            noise = torch.from_numpy(np.stack([active.noise(need) for active in actives]))
            slow, fast = noise.to(self.device).tensor_split([self.slow_choices], dim=1)
            return slow, fast.unflatten(1, (books - 1, -1))
        draws = np.zeros((rows, books, 2), np.int64)
        for row, active in zip(draws, actives, strict=False):
            row[:, 0] = np.uint64(active.request.sampling.seed).view(np.int64)
            row[:, 1] = active.num_frames * books + np.arange(books)
        drawn = torch.from_numpy(draws).to(self.device)
        return drawn[:, 0], drawn[:, 1:]

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

    def previous_choices(self, windows: Tensor) -> Tensor:
        """What the repetition penalty of the slow logits looks back on; below 0 is nothing.

        Args:
            windows: int64 (batch, 1 + codebooks, WINDOW), tokens and codes of late frames.
        """
        if self.facts.full_vocabulary:
            # Upstream (`decode_one_token_ar`) takes a column for a row: all of one late frame.
            return windows[:, :, 0]
        return windows[:, 0] - self.facts.semantic_begin_id

    def semantic_code(self, token: Tensor) -> Tensor:
        """Upstream: a token that is not semantic counts as code 0."""
        return (token - self.facts.semantic_begin_id).clamp(0, self.facts.num_semantic - 1)


class Rows:
    """Per-row tensors of the running batch: what the next step needs from the last ones.

    Attributes:
        options: float32 (3, slots), temperature, top_p, repetition_penalty.
        logits: float32 (slots, choices), of the slow transformer.
        state: (slots, fast_dim), for the fast one.
    """

    def __init__(self, llama: Llama, slots: int) -> None:
        device = llama.device
        self.options = torch.zeros(3, slots, device=device)
        self.logits = torch.zeros(slots, llama.slow_choices, device=device)
        self.state = torch.zeros(slots, llama.fast_dim, device=device, dtype=llama.activations)

    def begin(self, row: int, temperature: float, top_p: float, repetition_penalty: float) -> None:
        """Make a row ready for a new request."""
        options = torch.tensor([temperature, top_p if temperature > 0 else 0.0, repetition_penalty])
        # Upstream holds its options in bfloat16 (`generate`): 0.8 is 0.80078125.
        self.options[:, row] = options.bfloat16().float().to(self.options.device)

    def drop(self, row: int, last: int) -> None:
        """Free a row by moving the last active one into it."""
        if row == last:
            return
        self.logits[row], self.state[row] = self.logits[last], self.state[last]
        self.options[:, row] = self.options[:, last]
