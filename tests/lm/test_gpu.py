"""A GPU's kernels against torch, and the language model on a GPU.

Without a GPU the kernels run on the CPU, in the interpreter of OpenAI's Triton: see conftest.py.
"""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import torch.nn.functional as F
import triton
import triton.language as tl

from engine.kernels import gpu as gpu_kernels
from engine.kernels import gpu_attention
from engine.kernels.norm import rms_norm
from engine.kernels.rotary import rotate, rotation
from engine.lm import sampler
from engine.lm.load import load_runner
from engine.lm.on_gpu import GpuRunner
from engine.lm.on_torch import TorchRunner
from engine.lm.placement import Placement
from engine.lm.runner import PENALTY_FRAMES, NewPositions
from ensemble.contract.options import Sampling
from support.engine import mixed, run
from support.genuine import assert_same
from support.gpu_kernels import DEVICE, HAS_GPU, needs_gpu, numbers

pytestmark = [pytest.mark.torch, pytest.mark.slow]
NEAR: dict = {torch.float32: {}, torch.float16: {"rtol": 2e-3, "atol": 2e-3}}
TYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.long)], ids=str
)


@TYPES
@pytest.mark.parametrize("dim", [96, 1024, 2560])
def test_sums_and_norms(dtype, dim) -> None:
    x, added, weight = (numbers(5, dim, seed=s, dtype=dtype) for s in range(3))
    total, out = gpu_kernels.add_norm(x, added, weight[0], 1e-6)
    torch.testing.assert_close(total, x + added)
    torch.testing.assert_close(out, rms_norm(x + added, weight[0], 1e-6))
    torch.testing.assert_close(
        gpu_kernels.add_norm(x, None, weight[0], 1e-6)[1], rms_norm(x, weight[0], 1e-6)
    )


@TYPES
def test_gates(dtype) -> None:
    x = numbers(3, 2 * 1100, dtype=dtype)
    gate, up = x.chunk(2, dim=-1)
    torch.testing.assert_close(gpu_kernels.gated(x), F.silu(gate) * up)


@TYPES
@pytest.mark.parametrize(
    ("head_dim", "heads", "kv_heads", "time"),
    [(48, 6, 2, 1), (64, 4, 4, 2), pytest.param(128, 16, 8, 1, marks=pytest.mark.long)],
)
@pytest.mark.parametrize("has_norms", [True, False])
def test_attention_behind_a_past(dtype, head_dim, heads, kv_heads, time, has_norms) -> None:
    """Of rows with different pasts; the cache is a part of a larger one."""
    rows, room = 3, 290
    qkv = numbers(rows * time, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    cos_sin = numbers(room, head_dim // 2, 2, seed=1)
    past = torch.tensor([0, 7, 250], device=DEVICE)
    keys, values = (
        numbers(rows + 1, kv_heads, room, head_dim, seed=s, dtype=dtype)[:rows] for s in (2, 3)
    )
    norms = tuple(numbers(head_dim, seed=s, dtype=dtype) for s in (4, 5)) if has_norms else None
    positions = past[:, None] + torch.arange(time, device=DEVICE)
    qk, v = (
        qkv.view(rows, time, -1, head_dim).transpose(1, 2).split([heads + kv_heads, kv_heads], 1)
    )
    if norms:
        expanded = zip(norms, (heads, kv_heads), strict=True)
        qk = rms_norm(qk, torch.cat([norm.expand(n, 1, -1) for norm, n in expanded]), 1e-6)
    q, k = rotate(qk, rotation(cos_sin[positions][:, None])).split([heads, kv_heads], 1)
    wanted_keys, wanted_values = keys.clone(), values.clone()
    for row in range(rows):
        wanted_keys[row, :, positions[row]] = k[row]
        wanted_values[row, :, positions[row]] = v[row]

    queries = gpu_attention.place(qkv, norms, 1e-6, cos_sin, past, keys, values)
    torch.testing.assert_close(
        queries.view(rows, time, heads, head_dim).transpose(1, 2), q, **NEAR[dtype]
    )
    torch.testing.assert_close(keys, wanted_keys, **NEAR[dtype])
    assert torch.equal(values, wanted_values)

    found = gpu_attention.attend(queries, keys, values, past)
    mask = (torch.arange(room, device=DEVICE) <= positions[:, :, None])[:, None]
    shared = (t.float().repeat_interleave(heads // kv_heads, 1) for t in (keys, values))
    wanted = F.scaled_dot_product_attention(q.float(), *shared, mask)
    found = found.view(rows, time, heads, head_dim).transpose(1, 2).float()
    torch.testing.assert_close(found, wanted, **NEAR[dtype])


@pytest.mark.long
def test_choices_are_those_of_the_distribution() -> None:
    """Against torch's sampler: the same choices possible, equally often."""
    rows = 500 if HAS_GPU else 120  # which the interpreter takes one by one, 0.1 s each
    choices, times = 257, 50_000 // rows
    logits = (2 * numbers(1, choices)).expand(rows, -1).contiguous()
    previous = torch.full((rows, 3, PENALTY_FRAMES), -1, device=DEVICE)
    previous[:, 1, :4] = torch.tensor([3, 50, 17, 59], device=DEVICE)
    options = [torch.full((rows,), v, device=DEVICE) for v in (0.8, 0.7, 1.3)]
    seeds = torch.arange(rows, device=DEVICE)
    draws = torch.stack([seeds * 7919 + 2**40, seeds % 3], dim=1)
    found = gpu_kernels.sample(logits, previous[:, 1], *options, draws)
    noise = torch.empty(rows * times, choices, device=DEVICE).exponential_()
    repeated = (t.repeat(times, *[1] * (t.dim() - 1)) for t in (logits, previous[:, 1], *options))
    wanted = sampler.sample(*repeated, noise)
    often, expected = (
        torch.bincount(t, minlength=choices).double() / len(t) for t in (found, wanted)
    )
    assert not (often > 0)[expected == 0].any()
    assert (often - expected).abs().max() < 1.57 / rows**0.5  # three deviations
    some = slice(40, 50)  # the same again, in a smaller batch
    again = (t[some] for t in (logits, previous[:, 1], *options, draws))
    assert torch.equal(found[some], gpu_kernels.sample(*again))


def test_greedy_choices() -> None:
    logits, zero = numbers(12, 1300), torch.zeros(12, device=DEVICE)
    previous = torch.randint(-1, 1300, (12, PENALTY_FRAMES), device=DEVICE)
    logits[0, :] = float("-inf")
    logits[0, 7] = 1.0
    inputs = logits, previous, zero, zero, zero + 1.2
    draws = torch.zeros(12, 2, dtype=torch.int64, device=DEVICE)
    wanted = sampler.sample(*inputs, torch.ones_like(logits))
    assert torch.equal(gpu_kernels.sample(*inputs, draws), wanted)
    nothing = torch.full_like(logits, float("nan"))
    assert (gpu_kernels.sample(nothing, *inputs[1:], draws) < 1300).all()


@triton.jit
def _uniform(draws, out, WIDTH: tl.constexpr):
    """The numbers that the sampler draws for one row."""
    index = tl.arange(0, WIDTH)
    row = tl.program_id(0)
    seed, counter = tl.load(draws + 2 * row), tl.load(draws + 2 * row + 1).to(tl.int32)
    zero = index * 0
    drawn, _a, _b, _c = tl.philox(seed, index, zero + counter, zero, zero)
    uniform = ((drawn >> 8).to(tl.float32) + 0.5) / 16777216.0
    tl.store(out + row * WIDTH + index, -tl.log(uniform))


def test_the_same_noise_gives_torchs_choice() -> None:
    """Row by row, with every mixture of temperature, top_p and penalty."""
    choices, width = 257, 512
    values = [0.1, 0.7, 1.7], [0.4, 0.9, 1.0], [0.7, 1.0, 1.4]
    mixtures = torch.cartesian_prod(*map(torch.tensor, values))
    rows = len(mixtures)
    temperature, top_p, penalty = mixtures.T.contiguous().to(DEVICE)
    logits = 2 * numbers(rows, choices)
    chance = torch.Generator().manual_seed(1)
    previous = torch.randint(-1, choices, (rows, PENALTY_FRAMES), generator=chance).to(DEVICE)
    draws = torch.stack([torch.arange(rows) * 7919 + 2**40, torch.arange(rows) % 3], 1).to(DEVICE)
    noise = torch.empty(rows, width, device=DEVICE)
    _uniform[(rows,)](draws, noise, WIDTH=width)
    said = (previous[:, :, None] == torch.arange(choices, device=DEVICE)).any(1)
    factor = torch.where(logits < 0, penalty[:, None], 1 / penalty[:, None])
    order = torch.where(said, logits * factor, logits).argsort(dim=1, descending=True)
    options = temperature, top_p, penalty
    wanted = sampler.sample(logits, previous, *options, noise[:, :choices].gather(1, order))
    assert torch.equal(gpu_kernels.sample(logits, previous, *options, draws), wanted)


@pytest.mark.parametrize("choices", [65, pytest.param(257, marks=pytest.mark.long)])
def test_top_k_leaves_the_same_choices_as_torch(choices) -> None:
    """With the same noise the same choice, equal logits included."""
    rows, width = 12, 1 << choices.bit_length()
    logits = (2 * numbers(rows, choices)).round(decimals=1)  # so that many are equal
    previous = torch.full((rows, PENALTY_FRAMES), -1, device=DEVICE)
    ones = torch.ones(rows, device=DEVICE)
    options = 0.8 * ones, ones, ones
    draws = torch.stack([torch.arange(rows) * 7919, -1 - torch.arange(rows)], 1).to(DEVICE)
    noise = torch.empty(rows, width, device=DEVICE)
    _uniform[(rows,)](draws, noise, WIDTH=width)
    order = logits.argsort(dim=1, descending=True, stable=True)
    by_rank = noise[:, :choices].gather(1, order)
    ranks = torch.arange(rows, device=DEVICE) % 12
    for top_k in (ranks, torch.full_like(ranks, choices + 9), torch.ones_like(ranks)):
        found = gpu_kernels.sample(logits, previous, *options, draws, top_k)
        chosen = _ranked_sample(logits, order, previous, options, by_rank, top_k)
        assert torch.equal(found, chosen)


def _ranked_sample(logits, order, previous, options, noise, top_k) -> torch.Tensor:
    """Torch's sampler with equal logits in the order of their indices."""
    ranked = logits.gather(1, order)
    nudged = ranked - 1e-5 * torch.arange(ranked.shape[1], device=ranked.device)
    chosen = sampler.sample(nudged, previous, *options, noise, top_k)
    return order.gather(1, chosen[:, None])[:, 0]


@pytest.fixture(scope="module")
def llama(repository) -> TorchRunner:
    return load_runner(repository / "fish_llama" / "1", Placement(DEVICE, torch.float32))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("count", "slots", "stagger"), [(1, 16, 0), (3, 2, 1), (7, 4, 2), (16, 16, 0), (21, 16, 1)]
)
def test_greedy_equals_upstream(llama, prompts, spoken, count, slots, stagger) -> None:
    assert isinstance(llama, GpuRunner), llama.why_no_kernels
    jobs = mixed(prompts, count)
    results = run(llama, [job[1:] for job in jobs], slots, stagger)
    for (which, _, sampling), got in zip(jobs, results, strict=True):
        assert_same(got.codes, got.reason, spoken[which], sampling.max_new_tokens)


@needs_gpu
@pytest.mark.gpu
def test_a_seed_says_the_same_again(llama, prompts) -> None:
    asked = Sampling(seed=2**63 + 5, max_new_tokens=40)
    first, second, other = (
        run(llama, [(prompts[0], s)])[0].codes for s in (asked, asked, replace(asked, seed=1))
    )
    assert (first == second).all()
    assert first.shape != other.shape or (first != other).any()


@needs_gpu
@pytest.mark.gpu
def test_the_steps_of_plain_torch(repository) -> None:
    """Without kernels and CUDA graphs, in half precision: about the same logits."""
    folder, placement = repository / "fish_llama" / "1", Placement(DEVICE, torch.float16)
    with_kernels = load_runner(folder, placement)
    without = load_runner(folder, replace(placement, use_kernels=False))
    assert without.why_no_kernels == "FISH_SPEECH_COMPILE is false"
    columns = torch.randint(16, (2, 1 + without.facts.num_codebooks, 9), device=DEVICE)
    lengths, past = (torch.tensor(n, device=DEVICE) for n in ([9, 5], [0, 0]))
    found = []
    for each in (with_kernels, without):
        cache = [each.new_cache(2, 32) for _ in range(2)]
        with torch.inference_mode():
            first = each.extend(NewPositions(columns, lengths, past, *cache))
            one = torch.ones_like(lengths)
            second = each.extend(NewPositions(columns[:, :, :1], one, lengths, *cache))
        found.append([*first, *(t.clone() for t in second)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=1e-2, atol=1e-2)
