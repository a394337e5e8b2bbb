"""Exports the LLaMA stage: prefill, decode step and fast loop.

The engine serves them as TorchScript; ONNX files, for other runtimes, are written if asked.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.lm.graphs import DualArGraphs
from engine.lm.layers import layers_of
from engine.lm.linear import Linear
from engine.lm.load import graphs_for
from engine.lm.placement import Placement
from engine.lm.runner import PENALTY_FRAMES
from engine.lm.shape import SHAPE_FILE, DualArShape
from engine.lm.weights import GRAPHS_FILE, Weights, load
from export import parity
from export.large import computing_in_float32, is_large, with_float32_head
from export.parity import Comparison, LlamaRuns
from export.trace import torchscript
from families.registry import EngineLlama

Report = Callable[[str], None]

PREFILL = ["tokens", "lengths", "past_lengths", "past_keys", "past_values"]
DECODE_STEP = ["columns", "past_lengths", "past_keys", "past_values"]
SLOW_OUT = ["logits", "state", "keys", "values"]
FAST_LOOP = ["state", "semantic", "previous", "temperature", "top_p", "repetition_penalty", "noise",
             "top_k"]  # fmt: skip
_PAST = {1: "batch", 3: "past"}
_NEW = {1: "batch", 3: "time"}
AXES = {
    "tokens": {0: "batch", 2: "time"},
    **{n: {0: "batch"} for n in ("columns", "lengths", "past_lengths", "logits", *FAST_LOOP)},
    "past_keys": _PAST,
    "past_values": _PAST,
    "keys": _NEW,
    "values": _NEW,
    "codes": {0: "batch"},
    "fast_logits": {0: "batch"},
}


def export_llama(
    genuine: Any,
    llama: EngineLlama,
    dtype: torch.dtype,
    folder: Path,
    report: Report,
    onnx: bool = False,
    torchscript_only: bool = False,
) -> list[Comparison]:
    """Write `llama.pt`, and `onnx/` if asked, into a folder and compare them with upstream.

    Args:
        genuine: Upstream's model in float32, in eval mode; its rotary table may be cut short
            only if no longer prompt will be served.
        llama: The same as the engine computes it.
        dtype: Dtype of the weights in `llama.pt`; the checkpoint's own loses nothing.
        folder: Made here.
        report: Called with what is being done.
        onnx: Also write the three graphs as ONNX: the weights once more, in float32.
        torchscript_only: Write `llama.pt` alone and compare nothing.
    """
    shape, weights = llama.shape, Weights(llama.tensors)
    graphs = _graphs(shape, weights)
    folder.mkdir(parents=True)
    report("fish_llama: TorchScript")
    path = folder / GRAPHS_FILE
    _write_torchscript(graphs, shape, weights, path, dtype)
    if torchscript_only:
        return []
    report("fish_llama: upstream's logits")
    if is_large(genuine):
        return _compared_mapped(path, genuine, llama.token_ids, report)
    given = genuine, parity.llama_cases(genuine, llama.token_ids), graphs.fast.choices
    found = _compared(GRAPHS_FILE, _torchscript_runs(path), *given)
    found += _compared(f"{GRAPHS_FILE}, as served", served_runs(path), *given)
    if onnx:
        report("fish_llama: ONNX")
        found += _compared("onnx", _write_onnx(graphs, folder / "onnx"), *given)
    return found


def _graphs(shape: DualArShape, weights: Weights) -> DualArGraphs:
    return DualArGraphs(shape, weights, layers_of(Linear), Linear).eval().requires_grad_(False)


def _compared_mapped(
    path: Path, genuine: Any, token_ids: Tensor, report: Report
) -> list[Comparison]:
    """Compare a large model: the weights of the file in the graphs that it was traced from.

    The kernels of a CPU would need all weights in float32 for this comparison; smaller models of
    the same family are compared on them.
    """
    shape, tensors = load(path)
    graphs = computing_in_float32(_graphs(shape, Weights(tensors)))
    runs = LlamaRuns(graphs.prefill, graphs.decode_step, graphs.fast_loop)
    cases = parity.llama_cases(with_float32_head(genuine), token_ids, parity.FEW_SIZES)
    report("fish_llama: our logits")
    name = f"{GRAPHS_FILE}, weights mapped"
    return _compared(name, runs, genuine, cases, graphs.fast.choices)


def served_runs(path: Path) -> LlamaRuns:
    """Runs the file as the engine does on a CPU, in float32, but without state between calls."""
    graphs = graphs_for(*load(path), Placement(torch.device("cpu"), torch.float32))

    def prefill(
        tokens: Tensor, lengths: Tensor, past_lengths: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        keys, values = (F.pad(t, (0, 0, 0, tokens.shape[2])) for t in past)
        ends = graphs.extend(tokens, lengths, past_lengths, keys, values)
        begin = past[0].shape[3]
        return *ends, keys[:, :, :, begin:], values[:, :, :, begin:]

    def decode_step(columns: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return prefill(columns[:, :, None], torch.ones_like(rest[0]), *rest)

    return LlamaRuns(prefill, decode_step, graphs.fast_loop)


def _compared(
    name: str,
    runs: LlamaRuns,
    genuine: Any,
    cases: list[parity.LlamaCase],
    num_codes: int = LlamaRuns.num_codes,
) -> list[Comparison]:
    errors = parity.llama_error(replace(runs, num_codes=num_codes), genuine, cases)
    return [
        Comparison(f"fish_llama/{name}", f"{graph} logits, max abs", error, parity.LOGITS_LIMIT)
        for graph, error in errors.items()
    ]


def _examples(graphs: DualArGraphs) -> dict[str, tuple[Tensor, ...]]:
    """Inputs to trace with: two rows of different lengths, with a past."""
    slow, fast = graphs.slow, graphs.fast
    attention: Any = slow.layers[0].attention
    books = fast.codebooks
    tokens = torch.zeros(2, 1 + books, 3, dtype=torch.int64)
    past = torch.zeros(len(slow.layers), 2, attention.kv_heads, 4, attention.head_dim)
    lengths = torch.tensor([3, 2])
    state = torch.zeros(2, fast.embeddings.weight.shape[1])
    previous = torch.full((2, books - 1, PENALTY_FRAMES), -1)
    ones = torch.ones(2)
    noise = torch.ones(2, books - 1, fast.choices)
    return {
        "prefill": (tokens, lengths, lengths, past, past),
        "decode_step": (tokens[:, :, 0], lengths, past, past),
        "fast_loop": (state, lengths, previous, ones, ones, ones, noise, torch.zeros_like(lengths)),
    }


def _write_torchscript(
    graphs: DualArGraphs, shape: DualArShape, weights: Weights, path: Path, dtype: torch.dtype
) -> None:
    """Trace in bfloat16: a trace in float32 would not record any conversion to float32."""
    half = _graphs(shape, Weights(weights.tensors, lambda t: t.bfloat16()))
    half = half.bfloat16()  # the tables too
    inputs = {
        name: tuple(t.bfloat16() if t.is_floating_point() else t for t in example)
        for name, example in _examples(graphs).items()
    }
    traced = torchscript(half, inputs).to(dtype)
    if any(t.dtype != torch.bfloat16 for t in weights.tensors.values() if t.dim() == 2):
        traced.load_state_dict(graphs.state_dict())  # the weights before they were rounded
    traced.save(str(path), _extra_files={SHAPE_FILE: shape.to_json()})


def _torchscript_runs(path: Path) -> LlamaRuns:
    loaded = torch.jit.load(str(path)).float()
    methods = (loaded.prefill, loaded.decode_step, loaded.fast_loop)
    prefill, decode_step, fast_loop = map(parity.script_runner, methods)
    return LlamaRuns(prefill, decode_step, fast_loop)


class _Method(nn.Module):
    """One of the graphs' methods as a module whose weights keep their full names."""

    def __init__(self, graphs: DualArGraphs, name: str) -> None:
        super().__init__()
        self.slow, self.fast = graphs.slow, graphs.fast
        self.method = getattr(graphs, name)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.method(*inputs)


def _write_onnx(graphs: DualArGraphs, folder: Path) -> LlamaRuns:
    """Three files that share `weights.bin`."""
    from export.write import onnx_graph, share_weights  # TorchScript alone does without ONNX

    folder.mkdir()
    examples = _examples(graphs)
    names = {
        "prefill": (PREFILL, SLOW_OUT),
        "decode_step": (DECODE_STEP, SLOW_OUT),
        "fast_loop": (FAST_LOOP, ["codes", "fast_logits"]),
    }
    models = {}
    for name, (inputs, outputs) in names.items():
        axes = {n: AXES[n] for n in (*inputs, *outputs)}
        graph = _Method(graphs, name)
        models[folder / f"{name}.onnx"] = onnx_graph(graph, examples[name], inputs, outputs, axes)
    share_weights(models, graphs, folder / "weights.bin")
    prefill, decode_step, fast_loop = map(parity.onnx_runner, models)
    return LlamaRuns(prefill, decode_step, fast_loop)
