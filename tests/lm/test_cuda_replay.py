"""Recordings of a GPU's steps, with a stand-in for CUDA's graphs (tests/support/recorded.py)."""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from engine.kernels import cuda_replay
from engine.lm.on_gpu import SLICES, GpuRunner
from engine.lm.runner import NewPositions
from engine.schedule.step import PREFILL_SLICE
from support.recorded import stand_in_for_cuda

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def cuda(monkeypatch) -> None:
    stand_in_for_cuda(monkeypatch)


class Counted:
    """A function of tensors, and how often Python ran it."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.runs += 1
        return x * 2 + y, y.sum(dim=-1)


def test_a_recording_is_replayed_on_the_inputs_of_each_call() -> None:
    function = Counted()
    replays = cuda_replay.Replay(function, "a pool")
    for seed in range(4):
        x, y = (
            torch.randn(3, 5, generator=torch.Generator().manual_seed(seed + s)) for s in (0, 9)
        )
        total, sums = replays(x, y)
        assert torch.equal(total, x * 2 + y)
        assert torch.equal(sums, y.sum(dim=-1))
        assert function.runs == 2  # once to compile what it launches, once to record


def test_inputs_are_copied_from_wherever_and_however_they_lie() -> None:
    """An expanded one, a transposed one; and the callers' own are left as they are."""
    function = Counted()
    replays = cuda_replay.Replay(function, "a pool")
    first = torch.ones(3, 5), torch.ones(3, 5)
    replays(*first)
    x, y = torch.arange(5.0).expand(3, -1), torch.arange(15.0).view(5, 3).T
    wanted = x * 2 + y
    assert torch.equal(replays(x, y)[0], wanted)
    assert function.runs == 2
    assert all((t == 1).all() for t in first)
    expanded = cuda_replay.Replay(function, "a pool")  # recorded with it, too
    assert torch.equal(expanded(x, y)[0], wanted)


def test_every_shape_has_a_recording() -> None:
    function = Counted()
    replays = cuda_replay.Replay(function, "a pool")
    for rows in (1, 2, 4, 2, 1, 4):
        x, y = torch.full((rows, 3), float(rows)), torch.ones(rows, 3)
        assert torch.equal(replays(x, y)[0], x * 2 + y)
    assert function.runs == 2 * 3


def test_the_recording_that_was_used_longest_ago_is_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(cuda_replay, "_KEPT", 2)
    function = Counted()
    replays = cuda_replay.Replay(function, "a pool")

    def recorded(rows: int) -> bool:
        before = function.runs
        x = torch.full((rows, 3), float(rows))
        assert torch.equal(replays(x, x)[0], 3 * x)
        return function.runs > before

    assert [recorded(rows) for rows in (1, 2, 1, 3, 1, 2)] == [True, True, False, True, False, True]


def write(x: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    """Puts rows into a cache, and reads all of it."""
    cache[: len(x)] = x
    return cache.sum(dim=-1)


def test_what_is_written_in_place_is_the_callers_own() -> None:
    replays = cuda_replay.Replay(write, "a pool", in_place=(1,))
    cache = torch.ones(4, 3)
    for value in (5.0, 7.0):
        found = replays(torch.full((2, 3), value), cache)
        assert found.tolist() == [3 * value, 3 * value, 3, 3]
        assert cache[:, 0].tolist() == [value, value, 1, 1]
    cache[3] = 2.0  # by the caller, between two calls
    assert replays(torch.zeros(2, 3), cache).tolist() == [0, 0, 3, 6]


def test_memory_in_another_place_is_another_recording() -> None:
    """A larger cache, and another view of the same: what was recorded reads the old addresses."""
    replays = cuda_replay.Replay(write, "a pool", in_place=(1,))
    old, new = torch.ones(4, 3), torch.full((4, 3), 2.0)
    replays(torch.zeros(2, 3), old)
    assert replays(torch.full((2, 3), 9.0), new).tolist() == [27, 27, 6, 6]
    assert old[:, 0].tolist() == [0, 0, 1, 1]
    wide = torch.ones(4, 6)
    left, strided = wide[:, :3], wide.as_strided((4, 3), (6, 2))  # one address, other strides
    assert replays(torch.full((2, 3), 4.0), left).tolist() == [12, 12, 3, 3]
    wide[:] = 1.0
    assert replays(torch.full((2, 3), 5.0), strided).tolist() == [15, 15, 3, 3]
    assert wide[0].tolist() == [5, 1, 5, 1, 5, 1]


class Graphs:
    """Stands for `GpuGraphs`: `extend` writes its last input into the cache."""

    def __init__(self) -> None:
        self.slow, self.runs = self, 0

    def extend(self, tokens, lengths, past, keys, values):
        self.runs += 1
        keys[: len(tokens)], values[: len(tokens)] = tokens[:, 0, -1:] + past[:, None], 1.0
        return tokens.sum(dim=(1, 2)) + lengths, keys.sum(dim=-1)

    def sample_token(self, logits):
        return logits.argmax(dim=-1)

    def fast_loop(self, state):
        return state + 1, state - 1


def of(graphs: Any, max_seq_len: int = 1) -> GpuRunner:
    """A runner of these graphs and of nothing else."""
    runner: Any = object.__new__(GpuRunner)
    runner.facts = SimpleNamespace(max_seq_len=max_seq_len)
    runner.new_cache = lambda rows, positions: torch.zeros(1, rows, 1, positions, 1)
    runner._extend, runner.sample_token, runner.fast_loop = runner._ready(graphs)
    return runner


def test_a_frame_is_replayed_and_prompts_of_an_unusual_length_are_not() -> None:
    graphs: Any = Graphs()
    runner: Any = of(graphs)
    keys, values = torch.zeros(3, 2), torch.zeros(3, 2)
    for time, runs in ((1, 2), (1, 2), (4, 3), (4, 4), (1, 4)):
        tokens = torch.arange(2 * 3 * time).view(2, 3, time) + runs
        lengths, past = torch.tensor([time, 1]), torch.tensor([runs, 7])
        inputs = NewPositions(tokens, lengths, past, keys, values, torch.zeros(2, 2))
        total, sums = runner.extend(inputs)
        assert graphs.runs == runs
        assert torch.equal(total, tokens.sum(dim=(1, 2)) + lengths)
        assert keys[:2, 0].tolist() == (tokens[:, 0, -1] + past).tolist()
        assert sums.tolist() == (2 * keys[:, 0]).tolist()
    for seed in (0, 1):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(runner.sample_token(x), x.argmax(dim=-1))
        more, less = runner.fast_loop(x)
        assert torch.equal(more, x + 1)
        assert torch.equal(less, x - 1)


class Prompts(Graphs):
    """Writes the tokens of one row behind its past: (layers, rows, heads, positions, head_dim)."""

    def extend(self, tokens, lengths, past, keys, values):
        self.runs += 1
        places = past + torch.arange(tokens.shape[2])
        keys[0, 0, 0, places, 0] = values[0, 0, 0, places, 0] = tokens[0, 0].float()
        return tokens.sum(dim=(1, 2)) + lengths, keys.sum()[None]


def test_many_prompts_are_run_together() -> None:
    """A few are replayed one by one."""
    runner: Any = of(Prompts(), max_seq_len=70)
    together: list[int] = []
    runner._prefill = lambda tokens, *_: together.append(len(tokens))
    for rows in (2, 8, 9):
        cache = [torch.zeros(1, rows, 1, 70, 1) for _ in range(2)]
        tokens = torch.arange(rows * 3 * 16).view(rows, 3, 16)
        lengths, pasts = torch.full((rows,), 16), torch.arange(rows)
        ends = runner.extend(NewPositions(tokens, lengths, pasts, *cache))
        if rows <= 8:
            assert torch.equal(ends[0], tokens.sum(dim=(1, 2)) + 16)
            for row in range(rows):
                found = cache[0][0, row, 0, row : row + 16, 0]
                assert found.tolist() == tokens[row, 0].tolist()
    assert together == [9]


def test_the_prompt_of_one_request_is_replayed_in_any_row() -> None:
    """It is run in a row of its own; not of a length between slices, nor in longer rows."""
    graphs: Any = Prompts()
    runner: Any = of(graphs, max_seq_len=70)
    for time, row, past, room, runs in (
        (16, 0, 0, 70, 2), (16, 0, 3, 70, 2), (16, 1, 5, 70, 2), (17, 0, 0, 70, 3),
        (32, 2, 1, 70, 5), (16, 0, 3, 80, 6),
    ):  # fmt: skip
        keys, values = torch.zeros(1, 3, 1, room, 1), torch.zeros(1, 3, 1, room, 1)
        tokens = torch.arange(3 * time).view(1, 3, time) + runs
        views = keys[:, row : row + 1], values[:, row : row + 1]
        inputs = NewPositions(tokens, torch.tensor([time]), torch.tensor([past]), *views)
        total, _ = runner.extend(inputs)
        assert graphs.runs == runs
        assert torch.equal(total, tokens.sum(dim=(1, 2)) + time)
        for cache in (keys, values):
            assert cache[0, row, 0, past : past + time, 0].tolist() == tokens[0, 0].tolist()
            assert cache.sum() == tokens[0, 0].sum()


def test_slices_are_filled_up_to_few_lengths() -> None:
    runner = object.__new__(GpuRunner)
    filled = [runner.positions_for(time) for time in (1, 2, 16, 17, 300, 512)]
    assert filled == [1, 16, 16, 32, 512, 512]
    assert SLICES[-1] == PREFILL_SLICE


def test_what_comes_to_a_gpu_together_begins_where_kernels_expect_it() -> None:
    """At multiples of 16 bytes, or they are compiled anew."""
    runner: Any = object.__new__(GpuRunner)
    runner.device = torch.device("cpu")
    given = [torch.arange(3), torch.arange(11).view(1, 11), torch.arange(4).view(2, 2).T]
    found = runner.to_device(*given)
    for one, wanted in zip(found, given, strict=True):
        assert torch.equal(one, wanted)
        assert one.is_contiguous()
        assert (one.data_ptr() - found[0].data_ptr()) % 16 == 0
