"""The engine against upstream's `generate`, alone and in company."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from genuine import Greedy, assert_same, greedy

from engine.engine import Engine, OverloadedError
from engine.linear import Int8Linear
from engine.llama import Llama
from engine.request import Request, Sampling
from engine.settings import Settings, settings_from
from ensemble.prompt import PromptBuilder, Reference

pytestmark = pytest.mark.torch
FULL = Settings(torch.device("cpu"), torch.float32, 16)
needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="no AVX-512 VNNI")
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=50)


@pytest.fixture(scope="module")
def llama(repository) -> Llama:
    return Llama(repository / "fish_llama" / "1", FULL)


@pytest.fixture(scope="module")
def builder(repository) -> PromptBuilder:
    return PromptBuilder(repository / "fish_prompt" / "1")


def with_voices(builder) -> list[tuple[np.ndarray, int]]:
    """Prompts with 0, 1 and 3 references, of different lengths; positions that are the voice's."""
    rng = np.random.default_rng(0)
    sizes = builder.facts.codebook_sizes
    voice = Reference("Hello there.", np.stack([rng.integers(0, n, 30) for n in sizes]))
    jobs = [("One.", 0), ("Hello world, this is a test of it.", 1), ("Three references", 3)]
    return [builder.build(text, [voice] * count) for text, count in jobs]


@pytest.fixture(scope="module")
def prompts(builder) -> list[np.ndarray]:
    return [prompt for prompt, _ in with_voices(builder)]


class Collected:
    """What one request got."""

    def __init__(self) -> None:
        self.windows, self.errors, self.cancelled = [], [], False

    def request(self, prompt: np.ndarray, sampling: Sampling, prefix_length: int = 0) -> Request:
        return Request(
            prompt,
            sampling,
            self.windows.append,
            self.errors.append,
            lambda: "by the caller" * self.cancelled,
            prefix_length,
        )

    @property
    def codes(self) -> np.ndarray:
        assert [w.index for w in self.windows] == list(range(len(self.windows)))
        news = [w.codes[:, w.codes.shape[1] - len(w.new_frames) :] for w in self.windows]
        return np.concatenate(
            [n[:, : w.num_frames] for n, w in zip(news, self.windows, strict=True)], axis=1
        )

    @property
    def reason(self) -> str:
        return self.windows[-1].finish_reason


def run(
    llama: Llama, jobs: list, slots: int = 16, stagger: int = 0, **options: int
) -> list[Collected]:
    """Run jobs to their ends, each submitted `stagger` steps after the one before."""
    engine, collected = Engine(llama, slots, **options), []
    for prompt, sampling in jobs:
        collected.append(Collected())
        engine.submit(collected[-1].request(prompt, sampling))
        for _ in range(stagger):
            engine.step()
    while engine.step():
        pass
    assert not any(c.errors for c in collected)
    return collected


@pytest.fixture(scope="module")
def spoken(prompts, tiny_checkpoint) -> list[Greedy]:
    """What upstream says to each prompt."""
    from export.checkpoint import load_checkpoint, load_llama

    model = load_llama(load_checkpoint(tiny_checkpoint))
    return [greedy(model, prompt, GREEDY.max_new_tokens) for prompt in prompts]


def mixed(prompts: list[np.ndarray], count: int) -> list[tuple[int, np.ndarray, Sampling]]:
    """Greedy jobs of all lengths: which prompt, the prompt, options."""
    limits = [50, 7, 33, 1, 21, 50, 12]
    return [
        (i % 3, prompts[i % 3], replace(GREEDY, max_new_tokens=limits[i % 7])) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "slots", "stagger"),
    [(1, 16, 0), (3, 2, 1), (7, 4, 2), (16, 16, 0), (21, 16, 1)],
)
def test_greedy_equals_upstream(llama, prompts, spoken, count, slots, stagger) -> None:
    jobs = mixed(prompts, count)
    results = run(llama, [job[1:] for job in jobs], slots, stagger)
    for (which, _, sampling), got in zip(jobs, results, strict=True):
        assert_same(got.codes, got.reason, spoken[which], sampling.max_new_tokens)


def test_long_speech_stays_upstreams(llama, prompts, tiny_checkpoint, monkeypatch) -> None:
    """2,000 frames, in company that comes and goes; no end, which would come sooner."""
    from export.checkpoint import load_checkpoint, load_llama

    frames = 2000
    model = load_llama(load_checkpoint(tiny_checkpoint), max_seq_len=2304)
    expected = greedy(model, prompts[1], frames, speech_ends=False)
    assert len(np.unique(expected.codes, axis=1).T) > frames // 2  # no loop, which proves little
    monkeypatch.setattr("engine.request.runs_away", lambda _: False)
    extend = llama.extend

    def endless(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, state = extend(*inputs)
        logits[:, llama.end_choice] = float("-inf")
        return logits, state

    monkeypatch.setattr(llama, "extend", endless)
    engine, got = Engine(llama, 2), Collected()
    engine.submit(got.request(prompts[1], replace(GREEDY, max_new_tokens=frames)))
    for step in range(2 * frames):
        if step % 100 == 0:
            engine.submit(Collected().request(prompts[0], Sampling(max_new_tokens=9)))
        if not engine.step():
            break
    assert_same(got.codes, got.reason, expected, frames)


def test_result_depends_on_prompt_options_and_seed_alone(llama, prompts) -> None:
    jobs = [
        (prompts[i % 3], Sampling(seed=i // 2, temperature=0.6 + 0.1 * (i % 4), max_new_tokens=40))
        for i in range(9)
    ]
    together = run(llama, jobs, slots=5, stagger=2)
    for job, got in zip(jobs, together, strict=True):
        (alone,) = run(llama, [job])
        np.testing.assert_array_equal(got.codes, alone.codes)
        assert got.reason == alone.reason
    first, other = run(llama, [(prompts[1], Sampling(seed=s)) for s in (1, 2)])
    assert not np.array_equal(first.codes, other.codes)


@needs_vnni
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 17])
def test_int8_product_is_exact_but_for_the_rounding_of_its_operands(rows) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(17, 64, generator=generator) * torch.logspace(-3, 3, 17)[:, None]
    weight = torch.randn(96, 64, generator=generator)
    got = Int8Linear(weight, None)(x[:rows])
    scales = [t.abs().amax(dim=1, keepdim=True) / 127 for t in (x, weight)]
    a, b = ((t / s).round().double() for t, s in zip((x, weight), scales, strict=True))
    expected = (a @ b.T) * scales[0].double() * scales[1].double().T
    torch.testing.assert_close(got.double(), expected[:rows], rtol=1e-6, atol=1e-9)
    assert ((got - x[:rows] @ weight.T).norm() / got.norm()).item() < 0.02


@pytest.mark.parametrize("limit", [1, 7, 8, 9])
def test_length_limit(llama, prompts, limit) -> None:
    (got,) = run(llama, [(prompts[0], Sampling(seed=1, max_new_tokens=limit))])
    assert got.codes.shape[1] <= limit
    if got.reason == "length":
        assert got.codes.shape[1] == limit


def test_chunks_do_not_change_codes(llama, prompts) -> None:
    schedules = [(8, 64), (1, 1), (3, 5), (50, 50)]
    jobs = [
        (prompts[0], Sampling(seed=4, first_chunk_frames=f, max_chunk_frames=m))
        for f, m in schedules
    ]
    results = run(llama, jobs)
    for got in results[1:]:
        np.testing.assert_array_equal(got.codes, results[0].codes)


def test_cancelled_request_frees_its_slot(llama, prompts) -> None:
    engine = Engine(llama, 2)
    gone, stays, waits = Collected(), Collected(), Collected()
    for c in (gone, stays, waits):
        engine.submit(c.request(prompts[0], Sampling(seed=3, max_new_tokens=30)))
    for _ in range(4):
        engine.step()
    assert len(engine.active) == 2
    gone.cancelled = True
    engine.step()
    assert len(gone.errors) == 1
    assert not any(w.finish_reason for w in gone.windows)
    while engine.step():
        pass
    np.testing.assert_array_equal(stays.codes, waits.codes)
    assert int(engine.cache.lengths.sum()) == 0


def test_full_queue_and_too_long_prompt_are_refused_at_once(llama, prompts) -> None:
    engine = Engine(llama, 1, max_waiting=2)
    for _ in range(2):
        engine.submit(Collected().request(prompts[0], GREEDY))
    with pytest.raises(OverloadedError, match="2 requests are waiting"):
        engine.submit(Collected().request(prompts[0], GREEDY))
    long = np.repeat(prompts[0][:, :1], llama.facts.max_prompt_length + 1, axis=1)
    with pytest.raises(ValueError, match="positions, expected 1 to"):
        Engine(llama, 1).submit(Collected().request(long, GREEDY))


@pytest.mark.parametrize("where", ["_extend", "_sample"])
def test_a_failing_step_fails_its_requests_and_not_the_engine(
    llama, prompts, monkeypatch, where
) -> None:
    import threading

    engine, hit, after = Engine(llama, 2), Collected(), Collected()
    broken = RuntimeError("out of memory")

    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise broken

    monkeypatch.setattr(engine, where, fail)
    thread = threading.Thread(target=engine.run)
    engine.submit(hit.request(prompts[0], GREEDY))
    thread.start()
    done = threading.Event()
    while not hit.errors:
        done.wait(0.01)
    engine.submit(after.request(prompts[0], GREEDY))
    while not (after.windows and after.reason):
        done.wait(0.01)
    engine.close()
    thread.join()
    assert hit.errors == [broken]


def test_waiting_prompts_go_through_together(llama, prompts) -> None:
    engine, jobs = Engine(llama, 8), [(prompts[i % 2], Sampling(seed=i)) for i in range(6)]
    collected = [Collected() for _ in jobs]
    for got, job in zip(collected, jobs, strict=True):
        engine.submit(got.request(*job))
    engine.step()
    assert len(engine.active) == len(jobs)
    while engine.step():
        pass
    for got, (alone,) in zip(collected, (run(llama, [job]) for job in jobs), strict=True):
        np.testing.assert_array_equal(got.codes, alone.codes)


def test_prefill_in_slices_equals_prefill_at_once(llama, prompts) -> None:
    (whole,) = run(llama, [(prompts[2], GREEDY)])
    (sliced,) = run(llama, [(prompts[2], GREEDY)], prefill_slice=16)
    np.testing.assert_array_equal(sliced.codes, whole.codes)


def test_warm_up_leaves_no_trace(llama, prompts) -> None:
    engine = Engine(llama, 3)
    engine.warm_up()
    assert (engine.frames, engine.steps, engine.seconds, engine.active) == (0, {}, {}, [])
    got = Collected()
    engine.submit(got.request(prompts[0], Sampling(seed=3, max_new_tokens=20)))
    while engine.step():
        pass
    (cold,) = run(llama, [(prompts[0], Sampling(seed=3, max_new_tokens=20))])
    np.testing.assert_array_equal(got.codes, cold.codes)


@needs_vnni
def test_int8_result_is_the_same_in_company(repository, prompts) -> None:
    settings = settings_from({"FISH_SPEECH_PRECISION": "int8", "FISH_SPEECH_DEVICE": "cpu"})
    rounded = Llama(repository / "fish_llama" / "1", settings)
    jobs = [(prompts[i % 3], Sampling(seed=i, max_new_tokens=30)) for i in range(6)]
    for job, got in zip(jobs, run(rounded, jobs, slots=4, stagger=2), strict=True):
        (alone,) = run(rounded, [job])
        np.testing.assert_array_equal(got.codes, alone.codes)


def test_settings() -> None:
    settings = settings_from({"FISH_SPEECH_PRECISION": "full", "VOICEREEL_BATCH_SIZE": "3"})
    assert (settings.dtype, settings.slots, settings.threads) == (torch.float32, 3, 0)
    settings = settings_from({"VOICEREEL_LLAMA_THREADS": "2"})
    assert (settings.slots, settings.threads) == (0, 2)
    for name, value in [
        ("FISH_SPEECH_PRECISION", "int3"),
        ("FISH_SPEECH_DEVICE", "tpu"),
        ("VOICEREEL_BATCH_SIZE", "many"),
        ("VOICEREEL_LLAMA_THREADS", "all"),
    ]:
        with pytest.raises(ValueError, match=f"{name} is '{value}', expected"):
            settings_from({name: value})
