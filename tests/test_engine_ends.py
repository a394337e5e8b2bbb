"""Every request ends once, with a last window or an error, whatever becomes of it."""

import threading

import numpy as np
import pytest
from test_engine import GREEDY, Collected, builder, llama, prompts  # noqa: F401

from engine.engine import CancelledError, Engine, OverloadedError
from engine.request import Sampling

pytestmark = pytest.mark.torch
LONG = Sampling(seed=1, max_new_tokens=400, first_chunk_frames=400)


def ends(collected: Collected) -> list[str]:
    """Reasons of last windows, and errors."""
    reasons = [w.finish_reason for w in collected.windows if w.finish_reason]
    assert all(not w.finish_reason for w in collected.windows[:-1])
    return reasons + [str(error) for error in collected.errors]


def submitted(engine: Engine, prompt: np.ndarray, sampling: Sampling = LONG) -> Collected:
    collected = Collected()
    engine.submit(collected.request(prompt, sampling))
    return collected


def finish(engine: Engine) -> None:
    while engine.step():
        pass
    assert int(engine.cache.lengths.sum()) == 0


def test_speech_has_a_frame_even_if_the_model_wants_none(llama, prompts, monkeypatch) -> None:  # noqa: F811
    """The end is forbidden to the first frame: its token is the best of the others, code 5."""
    extend = llama.extend

    def at_its_end(*inputs):
        logits, state = extend(*inputs)
        logits[:, 5], logits[:, llama.end_choice] = 100.0, 200.0
        return logits, state

    monkeypatch.setattr(llama, "extend", at_its_end)
    engine = Engine(llama, 2)
    together = [submitted(engine, prompts[0], GREEDY) for _ in range(2)]
    sliced = submitted(engine, prompts[2], GREEDY)  # its prompt goes through in slices
    finish(engine)
    for got in (*together, sliced):
        assert ends(got) == ["stop"]
        assert got.codes.shape[1] == 1
        assert got.codes[0, 0] == 5


@pytest.mark.parametrize("chunk", [3, 7, 8, 64])
@pytest.mark.parametrize(("most", "reason"), [(20, "length"), (400, "stop"), (400, "runaway")])
def test_the_last_window_says_why_and_nothing_is_lost(
    llama,  # noqa: F811
    prompts,  # noqa: F811
    monkeypatch,
    chunk,
    most,
    reason,
) -> None:
    at = 21 if reason == "runaway" else None
    monkeypatch.setattr("engine.request.runs_away", lambda frames: len(frames) == at)
    engine = Engine(llama, 2)
    sampling = Sampling(2, max_new_tokens=most, first_chunk_frames=chunk, max_chunk_frames=chunk)
    got, other = submitted(engine, prompts[0], sampling), submitted(engine, prompts[1], GREEDY)
    finish(engine)
    assert ends(got) == [reason]
    assert len(ends(other)) == 1
    count = got.codes.shape[1]
    assert count == {"length": 20, "runaway": 21}.get(reason, count)
    full, rest = divmod(count, chunk)
    valid = [w.num_frames for w in got.windows]
    assert sum(valid) == count
    assert valid[:full] == [chunk] * full
    assert valid[full:] == [rest] or (not rest and len(valid) == full)


@pytest.mark.parametrize("where", ["waiting", "prefilling", "active"])
def test_who_leaves_is_told_at_once_and_once(llama, builder, prompts, where) -> None:  # noqa: F811
    long = np.concatenate([prompts[2]] * (1500 // prompts[2].shape[1]), axis=1)
    engine = Engine(llama, 1 if where == "waiting" else 2)
    stays = submitted(engine, prompts[0])
    engine.step()
    leaves = submitted(engine, long if where == "prefilling" else prompts[1])
    engine.step()
    assert bool(engine.waiting) == (where == "waiting")
    assert bool(engine.prefilling) == (where == "prefilling")
    assert len(engine.active) == (2 if where == "active" else 1)
    leaves.cancelled = True
    engine.step()
    assert ends(leaves) == ["by the caller"]
    assert isinstance(leaves.errors[0], CancelledError)
    assert (len(engine.active), len(engine.waiting), engine.prefilling) == (1, 0, None)
    assert ends(stays) == []
    finish(engine)
    assert len(ends(stays)) == len(ends(leaves)) == 1


def test_a_long_queue_is_asked_in_turn(llama, prompts) -> None:  # noqa: F811
    """Those who left make room for others; those who stay keep their order."""
    engine = Engine(llama, 1, max_waiting=40)
    everybody = [
        submitted(engine, prompts[0], Sampling(seed=s, max_new_tokens=30)) for s in range(40)
    ]
    engine.step()
    for leaves in everybody[1::2]:
        leaves.cancelled = True
    for _ in range(20):
        engine.step()
    assert [len(ends(c)) for c in everybody[1:]] == [1, 0] * 19 + [1]
    assert len(engine.waiting) == 19
    finished = []
    while engine.step():
        finished += [
            i for i, c in enumerate(everybody) if i % 2 == 0 and ends(c) and i not in finished
        ]
    assert finished == sorted(finished)
    assert all(len(ends(c)) == 1 for c in everybody)


def test_a_shutdown_tells_everybody(llama, builder, prompts) -> None:  # noqa: F811
    engine = Engine(llama, 2)
    everybody = [submitted(engine, prompts[i % 3]) for i in range(6)]
    stepped = threading.Event()
    thread = threading.Thread(target=engine.run, args=[stepped.set])
    thread.start()
    assert stepped.wait(30)
    engine.close()
    thread.join(30)
    assert not thread.is_alive()
    assert {tuple(ends(c)) for c in everybody} <= {("the server is shutting down",), ("stop",)}
    assert sum(bool(c.errors) for c in everybody) >= 4
    with pytest.raises(OverloadedError, match="shutting down"):
        submitted(engine, prompts[0])
