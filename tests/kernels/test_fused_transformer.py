"""The C++ operators against torch's, and that a row's result does not depend on the batch."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from engine.kernels import build
from engine.kernels.norm import rms_norm
from engine.kernels.rotary import rotate, rotation
from engine.kernels.rounding import rounded_weight
from engine.kernels.transformer import FusedLayer, FusedLinear, FusedTransformer
from engine.lm import sampler
from engine.lm.linear import linear_for
from engine.lm.load import load_runner
from engine.lm.placement import Placement
from engine.lm.runner import PENALTY_FRAMES, NewPositions
from ensemble.contract import distribution
from support.engine import needs_int8

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")

if reason := build.fault():
    pytest.skip(reason, allow_module_level=True)


def numbers(*extents: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(extents, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "outputs", "depth"), [(1, 32, 8), (3, 33, 63), (17, 200, 256)])
def test_products(dtype, rows, outputs, depth) -> None:
    x, weight = numbers(rows, depth), (numbers(outputs, depth, seed=1) / depth**0.5).to(dtype)
    found = FusedLinear(weight)(x)
    torch.testing.assert_close(found, x @ weight.float().T, rtol=1e-5, atol=1e-5)


def test_what_comes_before_and_after_a_product() -> None:
    x, weight, bias, norm = numbers(2, 3, 64), numbers(48, 64), numbers(48), numbers(64)
    before = numbers(2, 3, 48, seed=2)
    found = FusedLinear(weight, bias, norm, eps=1e-5)(x, before)
    wanted = F.linear(rms_norm(x, norm, 1e-5), weight, bias) + before
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    gate, up = x.chunk(2, dim=-1)
    found = FusedLinear(weight[:, :32], gated=True)(x)
    torch.testing.assert_close(found, F.linear(F.silu(gate) * up, weight[:, :32]))


needs_units = pytest.mark.skipif(
    not torch.ops.voicereel.has_units(), reason="without matrix units nothing is split in two"
)


@needs_int8
def test_8_bit_products() -> None:
    x, weight = numbers(5, 512), numbers(70, 512, seed=1)
    found, exact = FusedLinear(weight, int8=True)(x), x @ weight.T
    assert ((found - exact).norm() / exact.norm()).item() < 0.02
    torch.testing.assert_close(found, linear_for(CPU, int8=True)(weight, None)(x))
    assert FusedLinear(weight[:, :510], int8=True).scales.numel() == 0  # four at a time


@needs_units
def test_weights_split_in_two_are_float32_but_for_little() -> None:
    weight, x, norm = numbers(70, 192, seed=1) / 14, numbers(37, 192), numbers(192, seed=2)
    linear = FusedLinear(weight, norm=norm, eps=1e-6, split=True)
    assert linear.panels.dtype == torch.bfloat16
    found, exact = linear(x), FusedLinear(weight, norm=norm, eps=1e-6)(x)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_rows_in_8_bits_have_scales_of_their_own() -> None:
    weight, x = numbers(48, 32, seed=1) / 32**0.5, numbers(3, 7, 32)
    x *= torch.logspace(-6, 6, 21).view(3, 7, 1)
    x[1, 2] = 0
    linear, (rounded, scale) = FusedLinear(weight, int8=True), rounded_weight(weight)
    step = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    known = (x / step + 128).round() - 128
    expected = known @ (rounded * scale[:, None]).T
    torch.testing.assert_close(linear(x) / step, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(linear(x[1:2, 3:4]), linear(x)[1:2, 3:4])
    assert not linear(x)[1, 2].any()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_a_row_of_a_product_is_the_same_in_any_batch(kind) -> None:
    weight = numbers(100, 192, seed=1)
    how = {kind: True} if kind.startswith("int") else {}
    product = FusedLinear(
        weight if kind == "float32" else weight.bfloat16(), norm=numbers(192), **how
    )
    x = numbers(67, 192)
    whole = product(x)
    for begin, end in ((0, 1), (5, 7), (0, 8), (3, 20), (60, 67)):
        assert torch.equal(product(x[begin:end]), whole[begin:end])


def attend(qkv, past, cos_sin, norms, keys, values, begins=None, window=2**62, shared=None):
    """By a transformer of one layer that does nothing else."""
    width, dim, kv_heads = qkv.shape[-1], keys.shape[-1], keys.shape[1]
    inner = width - 2 * kv_heads * dim
    layer = FusedLayer(
        FusedLinear(torch.eye(width)),
        FusedLinear(torch.eye(width, inner)),
        FusedLinear(torch.zeros(8, width)),
        FusedLinear(torch.zeros(width, 4), gated=True),
        head_norms=norms,
    )
    run = FusedTransformer([layer], 1e-6)
    y = run(qkv, past, cos_sin, keys[None], values[None], begins, window, shared)
    return (y - qkv)[..., :inner]


def attended(qkv, past, cos_sin, norms, keys, values):
    """By torch, into copies of the cache."""
    keys, values = keys.clone(), values.clone()
    kv_heads, dim = keys.shape[1], keys.shape[3]
    heads = qkv.unflatten(-1, (-1, dim)).transpose(1, 2)
    q, k, v = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    if norms:
        q, k = (rms_norm(t, n, 1e-6) for t, n in zip((q, k), norms, strict=True))
    out = []
    for b, begin in enumerate(past.tolist()):
        end = begin + qkv.shape[1]
        turn = rotation(cos_sin[None, None, begin:end])
        keys[b, :, begin:end], values[b, :, begin:end] = rotate(k[b : b + 1], turn)[0], v[b]
        seen = torch.arange(end) <= torch.arange(begin, end)[:, None]
        cached = (t[b : b + 1, :, :end].float() for t in (keys, values))
        y = F.scaled_dot_product_attention(
            rotate(q[b : b + 1], turn), *cached, seen, enable_gqa=True
        )
        out.append(y[0].transpose(0, 1).flatten(1))
    return torch.stack(out), keys, values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kv_heads", "groups", "dim"), [(2, 1, 64), (2, 3, 128), (1, 2, 20)])
@pytest.mark.parametrize("time", [1, 19])
def test_attention(dtype, kv_heads, groups, dim, time) -> None:
    qkv = numbers(3, time, kv_heads * (groups + 2) * dim)
    past, cos_sin = torch.tensor([0, 7, 33]), numbers(60, dim // 2, 2)
    norms = (numbers(dim, seed=3), numbers(dim, seed=4)) if groups > 1 else ()
    keys, values = (numbers(3, kv_heads, 60, dim, seed=s).to(dtype) for s in (5, 6))
    wanted, *cache = attended(qkv, past, cos_sin, norms, keys, values)
    found = attend(qkv, past, cos_sin, norms, keys, values)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip((keys, values), cache, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_attention_of_a_row_is_the_same_alone_and_in_slices() -> None:
    qkv, cos_sin = numbers(2, 21, 4 * 64), numbers(40, 32, 2)
    past, extents = torch.tensor([9, 4]), (2, 1, 40, 64)
    before = numbers(*extents, seed=1).bfloat16(), numbers(*extents, seed=2).bfloat16()

    def sliced(rows: slice, times: list[int]) -> torch.Tensor:
        cache = [t[rows].clone() for t in before]
        parts, begin = [], 0
        for time in times:
            new = qkv[rows, begin : begin + time]
            parts.append(attend(new, past[rows] + begin, cos_sin, (), *cache))
            begin += time
        return torch.cat(parts, dim=1)

    whole = sliced(slice(0, 2), [21])
    for row in (0, 1):
        assert torch.equal(sliced(slice(row, row + 1), [21])[0], whole[row])
    assert torch.equal(sliced(slice(0, 2), [1, 7, 13]), whole)


def test_a_cache_that_is_too_short_is_refused() -> None:
    cache = torch.zeros(1, 1, 8, 64)
    inputs = (numbers(1, 1, 3 * 64), torch.tensor([8]), numbers(9, 32, 2), ())
    with pytest.raises(RuntimeError, match="8 and 1 positions do not fit"):
        attend(*inputs, cache, cache.clone())


def test_sampling() -> None:
    chance = torch.Generator().manual_seed(0)
    for seed in range(20):
        rows, choices = 1 + seed, 10 + 67 * seed
        logits = 4 * numbers(rows, choices, seed=seed)
        logits[0, 3] = float("-inf")
        previous = torch.randint(-1, choices, (rows, PENALTY_FRAMES), generator=chance)
        options = torch.rand(3, rows, generator=chance) + torch.tensor([[0.1], [-0.2], [0.5]])
        options[1].clamp_(min=0.0)
        noise = torch.empty(rows, choices).exponential_(generator=chance)
        inputs = (logits, previous, *options, noise)
        assert torch.equal(torch.ops.voicereel.sample(*inputs), sampler.sample(*inputs))
        top_k = torch.randint(0, 12, (rows,), generator=chance)
        found = torch.ops.voicereel.sample(*inputs, top_k)
        assert torch.equal(found, sampler.sample(*inputs, top_k))


def test_sampling_takes_one_top_k_for_each_row() -> None:
    inputs = numbers(2, 9), torch.full((2, 1), -1), *torch.ones(3, 2), torch.ones(2, 9)
    with pytest.raises(RuntimeError, match="top_k must be int64, one for each row"):
        torch.ops.voicereel.sample(*inputs, torch.ones(3, dtype=torch.int64))


def test_a_runner_does_without_where_it_is_told_to(repository) -> None:
    folder, placement = Path(repository) / "fish_llama" / "1", Placement(CPU, torch.float32)
    with_kernels = load_runner(folder, placement)
    without = load_runner(folder, replace(placement, use_kernels=False))
    assert with_kernels.why_no_kernels == ""
    assert without.why_no_kernels == "FISH_SPEECH_COMPILE is false"
    columns = torch.randint(16, (2, 1 + without.facts.num_codebooks, 9))
    lengths, past = torch.tensor([9, 5]), torch.zeros(2, dtype=torch.int64)
    logits, wanted = (
        llama.extend(
            NewPositions(columns, lengths, past, llama.new_cache(2, 9), llama.new_cache(2, 9))
        )[0]
        for llama in (with_kernels, without)
    )
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


def test_without_a_compiler_the_reason_says_what_to_do(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.fault.cache_clear()
    try:
        assert build.fault() == f"there is no C++ compiler ({distribution.install('g++')})"
    finally:
        build.fault.cache_clear()


def test_attention_reads_what_rows_share_in_one_of_them() -> None:
    """It is not looked at in the others, so there it may be anything."""
    past, cos_sin, qkv = torch.tensor([40, 40, 33]), numbers(60, 32, 2), numbers(3, 3, 4 * 64)
    keys, values = (numbers(3, 1, 60, 64, seed=s).bfloat16() for s in (5, 6))
    for cache in (keys, values):
        cache[1:, :, :32] = cache[:1, :, :32]
    copies = keys.clone(), values.clone()
    wanted = attend(qkv, past, cos_sin, (), *copies)
    for cache in (keys, values):
        cache[1:, :, :32] = 7.0
    shared = torch.tensor([[0, 0, 0], [32, 32, 32]])
    found = attend(qkv, past, cos_sin, (), keys, values, shared=shared)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(("dim", "rows"), [(64, 5), (128, 12), (20, 23)])
def test_rows_of_several_voices_that_decode_together(dim, rows) -> None:
    """In whatever order; two query heads for each of two of keys."""
    cos_sin, qkv = numbers(60, dim // 2, 2), numbers(rows, 1, 8 * dim)
    past = torch.randint(33, 59, (rows,), generator=torch.Generator().manual_seed(0))
    leads = [0, 1, 0, *(i % 2 for i in range(3, rows))]
    counts = [(32, 20)[lead] for lead in leads]
    keys, values = (numbers(rows, 2, 60, dim, seed=s).bfloat16() for s in (5, 6))
    for cache in (keys, values):
        for row, (lead, count) in enumerate(zip(leads, counts, strict=True)):
            cache[row, :, :count] = cache[lead, :, :count]
    wanted = attend(qkv, past, cos_sin, (), keys.clone(), values.clone())
    for cache in (keys, values):
        for row, count in enumerate(counts):
            cache[row, :, : count * (row > 1)] = 7.0
    shared = torch.tensor([leads, counts])
    found = attend(qkv, past, cos_sin, (), keys, values, shared=shared)
    assert torch.equal(found, wanted)


def test_attention_within_a_window() -> None:
    """Positions called less than 0 and those before the window are not seen."""
    cos_sin, qkv = numbers(90, 32, 2), numbers(2, 50, 3 * 64)
    nothing = torch.zeros(2, dtype=torch.int64)

    def within(qkv, past, cache, begins):
        return attend(qkv, past, cos_sin, (), *cache, begins, 16)

    whole = within(qkv, nothing, [torch.zeros(2, 1, 50, 64) for _ in range(2)], nothing)
    cache = [torch.full((2, 1, 66, 64), 7.0) for _ in range(2)]
    late = within(qkv, nothing + 16, cache, nothing - 16)
    assert torch.equal(late, whole)
    first, rest = [torch.full((2, 1, 40, 64), 7.0) for _ in range(2)], qkv[:, 24:]
    within(qkv[:, :24], nothing + 16, first, nothing - 16)
    cache = [torch.cat([c[:, :, 24:], torch.zeros(2, 1, 26, 64)], 2) for c in first]
    assert torch.equal(within(rest, nothing + 16, cache, nothing + 8), whole[:, 24:])


def test_choices_are_ranked_as_torch_does() -> None:
    """But for equal ones, which come in their order here, and there as it happens."""
    x, noise, ones = numbers(5, 502) * 8, numbers(5, 502, seed=3).exp(), torch.ones(5)
    x[0, 7], x[1, 3], x[2, 4] = float("-inf"), -0.0, 0.0
    inputs = (x, torch.full((5, 1), -1), 3 * ones, 0.99 * ones, ones, noise)
    assert torch.equal(torch.ops.voicereel.sample(*inputs), sampler.sample(*inputs))
