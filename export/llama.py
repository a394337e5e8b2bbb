"""The LLaMA stage: prefill, decode step and fast loop, as TorchScript and as ONNX."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.graphs import LlamaGraphs
from engine.layers import layers_of
from engine.linear import Linear
from engine.llama import graphs_for
from engine.sampler import WINDOW
from engine.settings import Settings
from engine.weights import GRAPHS_FILE, BlockShape, LlamaShape, Weights, load
from export import parity
from export.parity import Comparison, LlamaRuns
from export.trace import torchscript
from export.upstream import DualARModelArgs, FishTokenizer

Report = Callable[[str], None]

PREFILL = ["tokens", "lengths", "past_lengths", "past_keys", "past_values"]
DECODE_STEP = ["columns", "past_lengths", "past_keys", "past_values"]
SLOW_OUT = ["logits", "state", "keys", "values"]
FAST_LOOP = ["state", "semantic", "previous", "temperature", "top_p", "repetition_penalty", "noise"]
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


def num_semantic(config: DualARModelArgs, tokenizer: FishTokenizer) -> int:
    """Semantic codes that the model can take and give."""
    tokens = tokenizer.semantic_end_id - tokenizer.semantic_begin_id + 1
    return int(min(tokens, config.codebook_size))


def sampled_tokens(genuine: Any, full_vocabulary: bool) -> Tensor:
    """Ids of the tokens that get logits: the semantic ones and the end, or all."""
    tokenizer = genuine.tokenizer
    if full_vocabulary:
        return torch.arange(genuine.config.vocab_size)
    # A tokenizer may have more semantic tokens than the model has codes.
    begin = tokenizer.semantic_begin_id
    semantic = torch.arange(begin, begin + num_semantic(genuine.config, tokenizer))
    return torch.cat([semantic, torch.tensor([tokenizer.get_token_id("<|im_end|>")])])


def llama_shape(genuine: Any) -> LlamaShape:
    """What the weights do not say."""
    config, tokenizer = genuine.config, genuine.tokenizer
    return LlamaShape(
        slow=BlockShape(config.n_layer, config.n_local_heads, config.head_dim),
        fast=BlockShape(config.n_fast_layer, config.fast_n_local_heads, config.fast_head_dim),
        num_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
        semantic_begin=int(tokenizer.semantic_begin_id),
        semantic_end=int(tokenizer.semantic_end_id),
        scale_codebook_embeddings=bool(config.scale_codebook_embeddings),
        norm_eps=float(config.norm_eps),
    )


_NAMES = {
    "feed_forward.w2": "down",
    "fast_project_in": "to_fast",
    "fast_embeddings": "embeddings",
    "fast_layers": "layers",
    "fast_norm": "norm",
    "fast_output": "head",
}


def llama_tensors(genuine: Any, token_ids: Tensor) -> dict[str, Tensor]:
    """Upstream's weights under the names of `engine.graphs`, the heads cut, and the tables."""
    tensors = {}
    for name, tensor in genuine.state_dict().items():
        to_slow = not name.startswith("fast_") or name.startswith("fast_project_in")
        new = ("slow." if to_slow else "fast.") + name
        for theirs, ours in _NAMES.items():
            new = new.replace(theirs, ours)
        tensors[new] = tensor.detach()
    for name in [n for n in tensors if n.endswith("feed_forward.w1.weight")]:
        layer = name.removesuffix("feed_forward.w1.weight")
        gate, up = tensors.pop(name), tensors.pop(f"{layer}feed_forward.w3.weight")
        tensors[f"{layer}gate_up.weight"] = torch.cat([gate, up])
    tensors.pop("slow.output.weight", None)
    head = genuine.embeddings if genuine.config.tie_word_embeddings else genuine.output
    tensors["slow.head.weight"] = head.weight.detach()[token_ids]
    # Upstream samples residual codes from the first 1024 logits, the codec's codebook size.
    tensors["fast.head.weight"] = tensors["fast.head.weight"][:1024]
    # Upstream rounds its tables to bfloat16; parity needs the rounded values.
    tensors["slow.cos_sin"] = genuine.freqs_cis.detach().float()
    tensors["fast.cos_sin"] = genuine.fast_freqs_cis.detach().float()
    return tensors


def export_llama(
    genuine: Any,
    full_vocabulary: bool,
    dtype: torch.dtype,
    folder: Path,
    report: Report,
    torchscript_only: bool = False,
) -> list[Comparison]:
    """Write `llama.pt` and `onnx/` into a folder and compare both with upstream.

    Args:
        genuine: Upstream's model in float32, in eval mode; its rotary table may be cut short
            only if no longer prompt will be served.
        full_vocabulary: Logits for all tokens, which the engine then samples as upstream does.
        dtype: Of the weights in `llama.pt`; that of the checkpoint loses nothing.
        folder: Where to; made here.
        report: Told what goes on.
        torchscript_only: Write `llama.pt` alone and compare nothing.
    """
    token_ids = sampled_tokens(genuine, full_vocabulary)
    shape, weights = llama_shape(genuine), Weights(llama_tensors(genuine, token_ids))
    graphs = LlamaGraphs(shape, weights, layers_of(Linear), Linear).eval().requires_grad_(False)
    folder.mkdir(parents=True)
    path = folder / GRAPHS_FILE
    report("fish_llama: TorchScript")
    _write_torchscript(graphs, shape, weights, path, dtype)
    if torchscript_only:
        return []
    report("fish_llama: upstream's logits")
    cases = parity.llama_cases(genuine, token_ids)
    found = _compared(GRAPHS_FILE, _torchscript_runs(path), genuine, cases)
    found += _compared(f"{GRAPHS_FILE}, as served", served_runs(path), genuine, cases)
    report("fish_llama: ONNX")
    runs = _write_onnx(graphs, folder / "onnx")
    return found + _compared("onnx", runs, genuine, cases)


def served_runs(path: Path) -> LlamaRuns:
    """The file as the engine runs it on a CPU, in float32, behind the stateless interface."""
    graphs, _ = graphs_for(*load(path), Settings(torch.device("cpu"), torch.float32, slots=1))

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
    name: str, runs: LlamaRuns, genuine: Any, cases: list[parity.LlamaCase]
) -> list[Comparison]:
    errors = parity.llama_error(runs, genuine, cases)
    return [
        Comparison(f"fish_llama/{name}", f"{graph} logits, max abs", error, parity.LOGITS_LIMIT)
        for graph, error in errors.items()
    ]


def _examples(graphs: LlamaGraphs) -> dict[str, tuple[Tensor, ...]]:
    """Inputs to trace with: two rows, of different lengths, with a past."""
    slow, fast = graphs.slow, graphs.fast
    attention: Any = slow.layers[0].attention
    books = fast.codebooks
    tokens = torch.zeros(2, 1 + books, 3, dtype=torch.int64)
    past = torch.zeros(len(slow.layers), 2, attention.kv_heads, 4, attention.head_dim)
    lengths = torch.tensor([3, 2])
    state = torch.zeros(2, fast.embeddings.weight.shape[1])
    previous = torch.full((2, books - 1, WINDOW), -1)
    ones = torch.ones(2)
    noise = torch.ones(2, books - 1, fast.choices)
    return {
        "prefill": (tokens, lengths, lengths, past, past),
        "decode_step": (tokens[:, :, 0], lengths, past, past),
        "fast_loop": (state, lengths, previous, ones, ones, ones, noise),
    }


def _write_torchscript(
    graphs: LlamaGraphs, shape: LlamaShape, weights: Weights, path: Path, dtype: torch.dtype
) -> None:
    """Traced in bfloat16: a trace in float32 would forget every conversion to float32."""
    halved = Weights(weights.tensors, lambda t: t.bfloat16())
    half = LlamaGraphs(shape, halved, layers_of(Linear), Linear).eval().requires_grad_(False)
    half = half.bfloat16()  # the tables too
    inputs = {
        name: tuple(t.bfloat16() if t.is_floating_point() else t for t in example)
        for name, example in _examples(graphs).items()
    }
    traced = torchscript(half, inputs).to(dtype)
    traced.load_state_dict(graphs.state_dict())  # the weights themselves were not to be rounded
    traced.save(str(path), _extra_files=shape.files())


def _torchscript_runs(path: Path) -> LlamaRuns:
    loaded = torch.jit.load(str(path)).float()
    methods = (loaded.prefill, loaded.decode_step, loaded.fast_loop)
    return LlamaRuns(*map(parity.script_runner, methods))


class _Method(nn.Module):
    """One of the graphs' methods as a module whose weights keep their full names."""

    def __init__(self, graphs: LlamaGraphs, name: str) -> None:
        super().__init__()
        self.slow, self.fast = graphs.slow, graphs.fast
        self.method = getattr(graphs, name)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.method(*inputs)


def _write_onnx(graphs: LlamaGraphs, folder: Path) -> LlamaRuns:
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
    return LlamaRuns(*(parity.onnx_runner(path) for path in models))
