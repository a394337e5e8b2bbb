"""The graphs of a GPU, made of its kernels, against those of torch.

Without a GPU the kernels run in the interpreter of OpenAI's Triton, a few milliseconds for each
program of a launch: so batches are small here.
"""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import torch.nn.functional as F

from engine.kernels import gpu as gpu_kernels
from engine.kernels import gpu_attention
from engine.lm import gpu_graphs, on_gpu, sampler
from engine.lm.graphs import DualArGraphs
from engine.lm.layers import layers_of
from engine.lm.linear import Linear
from engine.lm.runner import PENALTY_FRAMES, NewPositions
from engine.lm.shape import DualArShape, TransformerShape
from engine.lm.weights import Weights
from support.gpu_kernels import DEVICE, numbers

pytestmark = [pytest.mark.torch, pytest.mark.slow]
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)  # two ways
NEAR: dict = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float16: {"rtol": 1e-2, "atol": 1e-2},
}
DIM, BOOKS, SIZE, ROOM = 48, 3, 13, 150  # width, codebooks, their size, positions of a row
# Query heads for each of so many of keys, the width of one; none is a power of two.
HEADS = [(3, 1, 24, True), (1, 5, 20, False), (2, 3, 16, True)]


def weights_of(
    kv_heads: int, groups: int, head_dim: int, has_norms: bool
) -> dict[str, torch.Tensor]:
    """Random weights of both transformers, two layers each, of variance 1 / fan-in."""
    heads, found = kv_heads * groups, {}
    shapes = {
        "attention_norm.weight": (DIM,),
        "ffn_norm.weight": (DIM,),
        "attention.wqkv.weight": ((heads + 2 * kv_heads) * head_dim, DIM),
        "attention.wo.weight": (DIM, heads * head_dim),
        "gate_up.weight": (2 * 40, DIM),
        "down.weight": (DIM, 40),
    }
    if has_norms:
        shapes |= {f"attention.{name}_norm.weight": (head_dim,) for name in "qk"}
    whole = {
        f"{part}.layers.{i}.{n}": s
        for part in ("slow", "fast")
        for i in (0, 1)
        for n, s in shapes.items()
    }
    whole |= {
        "slow.embeddings.weight": (50, DIM),
        "slow.codebook_embeddings.weight": (BOOKS * SIZE, DIM),
        "slow.norm.weight": (DIM,),
        "slow.head.weight": (37, DIM),
        "fast.embeddings.weight": (SIZE, DIM),
        "fast.norm.weight": (DIM,),
        "fast.head.weight": (SIZE, DIM),
    }
    for seed, (name, extents) in enumerate(whole.items()):
        scale = 1.0 if len(extents) == 1 or "embeddings" in name else extents[-1] ** -0.5
        found[name] = numbers(*extents, seed=seed) * scale
    angles = torch.arange(ROOM)[:, None] * 0.8 ** torch.arange(head_dim // 2)
    for part, count in (("slow", ROOM), ("fast", BOOKS)):
        found[f"{part}.cos_sin"] = torch.stack([angles.cos(), angles.sin()], dim=-1)[:count].to(
            DEVICE
        )
    return found


def graphs_of(
    heads: tuple, dtype: torch.dtype, layers: int = 2
) -> tuple[DualArGraphs, DualArGraphs]:
    """By kernels and by torch, of the same weights."""
    kv_heads, _, head_dim, _ = heads
    block = TransformerShape(layers, kv_heads, head_dim)
    shape = DualArShape(block, block, BOOKS, SIZE, 10, 22, True, 1e-6)
    weights = Weights(weights_of(*heads), lambda t: t.to(dtype))
    kernels = gpu_graphs.GpuGraphs(shape, weights)
    return kernels, DualArGraphs(shape, weights, layers_of(Linear), Linear)


def inputs_of(rows: int, time: int, heads: tuple, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Tokens, lengths, pasts and a cache that is part of a larger one: what `extend` takes."""
    chance = torch.Generator().manual_seed(rows * 100 + time)
    tokens = torch.randint(SIZE, (rows, 1 + BOOKS, time), generator=chance)
    tokens[:, 0] += 8  # some of them are semantic
    lengths = torch.randint(1, time + 1, (rows,), generator=chance)
    past = torch.tensor([64, 0, 127, 5, 63])[:rows]
    cache = [
        numbers(2, rows + 1, heads[0], ROOM, heads[2], seed=s, dtype=dtype)[:, :rows]
        for s in (1, 2)
    ]
    return tokens.to(DEVICE), lengths.to(DEVICE), past.to(DEVICE), *cache


@TYPES
@pytest.mark.parametrize(
    ("heads", "rows", "time"),
    [
        (HEADS[0], 3, 1),
        (HEADS[1], 2, 3),
        (HEADS[2], 1, gpu_graphs.FEW),
        (HEADS[2], 2, 1),
        (HEADS[1], 3, 7),
    ],
    ids=str,
)
@torch.inference_mode()
def test_new_positions_are_torchs(dtype, heads, rows, time) -> None:
    """A frame, few positions and a prompt, behind different pasts; the cache as well."""
    kernels, by_torch = graphs_of(heads, dtype)
    *inputs, keys, values = inputs_of(rows, time, heads, dtype)
    found_cache, wanted_cache = (keys.clone(), values.clone()), (keys.clone(), values.clone())
    found = kernels.extend(*inputs, *found_cache)
    wanted = by_torch.extend(*inputs, *wanted_cache)
    for ours, theirs in zip((*found, *found_cache), (*wanted, *wanted_cache), strict=True):
        torch.testing.assert_close(ours, theirs, **NEAR[dtype])


@TYPES
@pytest.mark.parametrize(("heads", "rows"), [(HEADS[0], 1), (HEADS[1], 2)], ids=str)
@torch.inference_mode()
def test_a_frames_codes_are_torchs(dtype, heads, rows, monkeypatch) -> None:
    """Greedy, with a penalty; in half precision the codes are given, since rounding may choose."""
    kernels, by_torch = graphs_of(heads, dtype, layers=rows)
    state, semantic = numbers(rows, DIM, dtype=dtype), torch.arange(rows, device=DEVICE)
    previous = torch.randint(-1, SIZE, (rows, BOOKS - 1, PENALTY_FRAMES)).to(DEVICE)
    zeros = torch.zeros(rows, device=DEVICE)
    draws = torch.zeros(rows, BOOKS - 1, 2, dtype=torch.int64, device=DEVICE)
    noise = torch.ones(rows, BOOKS - 1, SIZE, device=DEVICE)
    if dtype != torch.float32:
        for graphs in (kernels, by_torch):
            given = iter((semantic + 3, semantic + 1))
            monkeypatch.setattr(graphs.fast, "choose", lambda *_, given=given: next(given))
    inputs = state, semantic, previous, zeros, zeros, zeros + 1.3
    codes, logits = kernels.fast_loop(*inputs, draws)
    wanted_codes, wanted_logits = by_torch.fast_loop(*inputs, noise)
    torch.testing.assert_close(logits, wanted_logits, **NEAR[dtype])
    assert torch.equal(codes, wanted_codes)


@torch.inference_mode()
def test_a_row_of_a_decode_step_is_the_same_in_any_batch() -> None:
    """It has the same bits alone and together; not in float32, whose products are torch's."""
    dtype = torch.float16
    heads = HEADS[2]
    kernels, _ = graphs_of(heads, dtype, layers=1)
    tokens, lengths, past, *cache = inputs_of(2, 1, heads, dtype)
    cache = [t[:1] for t in cache]
    together = [t.clone() for t in cache]
    whole = kernels.extend(tokens, lengths, past, *together)
    for row in (0, 1):
        rows = slice(row, row + 1)
        alone = [t[:, rows].clone() for t in cache]
        found = kernels.extend(tokens[rows], lengths[rows], past[rows], *alone)
        for ours, theirs in zip(found, whole, strict=True):
            assert torch.equal(ours, theirs[rows])
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.equal(ours, theirs[:, rows])
    state, semantic = numbers(2, DIM, dtype=dtype), torch.arange(2, device=DEVICE)
    previous = torch.full((2, BOOKS - 1, PENALTY_FRAMES), 2, device=DEVICE)
    options = torch.tensor([[0.9, 1.5], [0.8, 0.3], [1.2, 1.5]]).to(DEVICE)
    draws = torch.arange(2 * (BOOKS - 1) * 2, device=DEVICE).view(2, BOOKS - 1, 2)
    inputs: list[Any] = [state, semantic, previous, *options, draws]
    codes, logits = kernels.fast_loop(*inputs)
    for row in (0, 1):
        found = kernels.fast_loop(*(t[row : row + 1] for t in inputs))
        assert torch.equal(found[0], codes[row : row + 1])
        assert torch.equal(found[1], logits[row : row + 1])


@TYPES
@pytest.mark.parametrize("past", [0, 1, 62, 63, 64, 511, 512, 600])
def test_attention_at_the_edges_of_its_blocks_and_splits(dtype, past) -> None:
    """Three query heads for one of keys; what lies behind the row's end is never looked at."""
    heads, dim, room = 3, 24, 640
    keys, values = (numbers(1, 1, room, dim, seed=s, dtype=dtype) for s in (1, 2))
    q = numbers(1, heads, dim, dtype=dtype)
    wanted = F.scaled_dot_product_attention(
        q.float(), keys[0, :, : past + 1].float(), values[0, :, : past + 1].float()
    )
    for tensor in (keys, values):
        tensor[:, :, past + 1 :] = float("nan")
    found = gpu_attention.attend(q, keys, values, torch.tensor([past], device=DEVICE))
    torch.testing.assert_close(found.float(), wanted.flatten()[None], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("pasts", [[5], [5, 0]], ids=str)
@torch.inference_mode()
def test_a_prompt_is_run_in_a_row_of_its_own(pasts) -> None:
    """The recording's; its row of the cache gets what is new, and no other is touched.

    A recording gives its results where it gave the last ones.
    """
    heads, time, rows = HEADS[2], 16, slice(1, 1 + len(pasts))
    _, graphs = graphs_of(heads, torch.float32)
    tokens, lengths, _, *_ = inputs_of(len(pasts), time, heads, torch.float32)
    keys, values = (numbers(2, 4, heads[0], ROOM, heads[2], seed=s) for s in (5, 6))
    inputs = tokens, lengths, torch.tensor(pasts, device=DEVICE)
    wanted_cache = keys.clone(), values.clone()
    wanted = graphs.extend(*inputs, *(t[:, rows] for t in wanted_cache))
    runner = object.__new__(on_gpu.GpuRunner)
    recorded: list[Any] = []

    def replay(*given: Any) -> Any:
        results = graphs.extend(*given)
        if recorded:
            for earlier, result in zip(recorded[0][1], results, strict=True):
                earlier.copy_(result)
        recorded.append((given[3:], results))
        return recorded[0][1]

    runner._extend, runner._prefill = replay, None
    runner._aside = tuple(numbers(2, 1, heads[0], ROOM, heads[2], seed=s) for s in (7, 8))
    found = runner.extend(NewPositions(*inputs, keys[:, rows], values[:, rows], None))
    assert len(recorded) == len(pasts)
    for given, _ in recorded:
        assert all(a is b for a, b in zip(given, runner._aside, strict=True))
    for ours, theirs in zip((*found, keys, values), (*wanted, *wanted_cache), strict=True):
        torch.testing.assert_close(ours, theirs)


@TYPES
@pytest.mark.parametrize("choices", [1, 37, 1024])
def test_greedy_choices_of_any_number(dtype, choices) -> None:
    """The best after the penalty, for logits that are a part of wider rows."""
    logits = numbers(3, choices + 5, seed=choices, dtype=dtype)[:, :choices]
    previous = torch.randint(-1, choices, (3, PENALTY_FRAMES), device=DEVICE)
    zeros = torch.zeros(3, device=DEVICE)
    inputs = logits, previous, zeros, zeros, zeros + 1.5
    draws = torch.zeros(3, 2, dtype=torch.int64, device=DEVICE)
    wanted = sampler.sample(*inputs, torch.ones(3, choices, device=DEVICE))
    assert torch.equal(gpu_kernels.sample(*inputs, draws), wanted)
