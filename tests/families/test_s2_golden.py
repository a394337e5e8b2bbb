"""S2's language model and prompt against what genuine upstream main answered: `tests/golden/s2`."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

from engine.kernels import build
from engine.lm.load import graphs_for
from engine.lm.on_cpu import CpuRunner
from engine.lm.on_torch import TorchRunner
from engine.lm.weights import load
from engine.schedule.scheduler import Scheduler
from ensemble.contract.options import Sampling, sampling_from
from families.fish_s2.checkpoint import load_checkpoint, load_llama
from families.fish_s2.engine_llama import engine_llama, language_facts
from families.fish_s2.prompt import PromptBuilder
from support.engine import FULL, GREEDY, Collected, run
from support.facts import FACTS
from support.s2_golden import GOLDEN, Case, case

GREEDY_CASES = ["plain", "one_reference", "two_speakers_in_batches"]
NEAR = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def checkpoint(s2_golden):
    return load_checkpoint(s2_golden)


@pytest.fixture(scope="module")
def facts(checkpoint):
    known = language_facts(checkpoint)
    return dataclasses.replace(FACTS, family="fish_s2", **known)


@pytest.fixture(scope="module")
def builder(facts, tmp_path_factory) -> PromptBuilder:
    folder = tmp_path_factory.mktemp("fish_prompt") / "1"
    folder.mkdir()
    facts.save(folder)
    shutil.copyfile(GOLDEN / "tokenizer.json", folder / "tokenizer.json")
    return PromptBuilder(folder)


@pytest.fixture(scope="module", params=[TorchRunner, CpuRunner])
def runner(request, checkpoint, facts) -> Any:
    if request.param is CpuRunner and (fault := build.fault()):
        pytest.skip(fault)
    llama = engine_llama(load_llama(checkpoint))
    return request.param(facts, llama.shape, llama.tensors, FULL)


def as_upstream(builder: PromptBuilder, recorded: Case) -> list[np.ndarray]:
    """The prompts of a case's batches, each with the codes before it."""
    builder.as_upstream, builder.max_bytes = True, recorded.options["chunk_length"]
    table, prefix, parts = builder.build_parts(recorded.text, recorded.references)
    assert len(parts) == len(recorded.batches) and prefix < parts[0]
    columns, prompts, end = [], [], 0
    for length, batch in zip(parts, recorded.batches, strict=True):
        columns.append(table[:, end : end + length])
        prompts.append(np.concatenate(columns, axis=1))
        columns.append(builder.codes(batch.codes))
        end += length
    return prompts


@pytest.mark.parametrize("name", [*GREEDY_CASES, "sampled"])
def test_prompts_equal_column_by_column(builder, name) -> None:
    recorded = case(name)
    for prompt, batch in zip(as_upstream(builder, recorded), recorded.batches, strict=True):
        np.testing.assert_array_equal(prompt, batch.prompt)


@pytest.mark.parametrize(("slots", "stagger", "times"), [(1, 0, 1), (3, 2, 2), (16, 0, 2)])
def test_greedy_codes_equal_in_any_batch(runner, slots, stagger, times) -> None:
    """Staggered or not."""
    batches = [batch for name in GREEDY_CASES for batch in case(name).batches] * times
    greedy = dataclasses.replace(GREEDY, max_new_tokens=25)
    results = run(runner, [(batch.prompt, greedy) for batch in batches], slots, stagger)
    for got, batch in zip(results, batches, strict=True):
        np.testing.assert_array_equal(got.codes, batch.spoken)
        assert got.reason == ("stop" if batch.ended else "length")


def test_one_choice_is_greedy(runner, facts) -> None:
    """`top_k=1` at any temperature, as the cases were asked for."""
    batches = [batch for name in GREEDY_CASES for batch in case(name).batches]
    asked = {"top_k": 1, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 25}
    results = run(runner, [(batch.prompt, sampling_from(asked, facts)) for batch in batches])
    for got, batch in zip(results, batches, strict=True):
        np.testing.assert_array_equal(got.codes, batch.spoken)


def test_greedy_codes_equal_with_a_cold_and_a_warm_prefix(runner) -> None:
    batch = case("one_reference").batches[0]
    prefix = batch.prompt.shape[1] - 20  # in the user's turn: any will do
    scheduler = Scheduler(runner, 2)
    for _ in range(2):
        got = Collected()
        sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=25)
        scheduler.submit(got.request(batch.prompt, sampling, prefix))
        while scheduler.step():
            pass
        np.testing.assert_array_equal(got.codes, batch.spoken)
    assert scheduler.batch.prefixes.stats.hits == 1


@pytest.mark.parametrize("placement", [FULL, dataclasses.replace(FULL, use_kernels=False)])
def test_logits_and_state_are_near(checkpoint, placement) -> None:
    """Of every frame, all of a case's columns given at once and the rest one by one."""
    llama = engine_llama(load_llama(checkpoint))
    graphs = graphs_for(llama.shape, llama.tensors, placement)
    recorded = case("one_reference")
    batch, arrays = recorded.batches[0], recorded.arrays
    columns = np.concatenate([batch.prompt, batch.frames], axis=1).astype(np.int64)
    tokens, begin = torch.from_numpy(columns)[None], batch.prompt.shape[1]
    keys, values = (
        torch.zeros(3, 1, 2, tokens.shape[2], 16) for _ in range(2)
    )  # layers, rows, kv heads, positions, head_dim
    for frame in range(batch.frames.shape[1]):
        new = tokens[:, :, 0 if frame == 0 else begin + frame - 1 : begin + frame]
        past = torch.tensor([begin + frame - new.shape[2]])
        logits, state = graphs.extend(
            new, torch.tensor([new.shape[2]]), past, keys, values, torch.zeros(2, 1).long()
        )
        expected = torch.from_numpy(arrays["slow_logits"][frame])[llama.token_ids]
        torch.testing.assert_close(logits[0], expected, **NEAR)
        torch.testing.assert_close(state[0], torch.from_numpy(arrays["hidden"][frame]), **NEAR)


class Replayed:
    """Gives a runner the recorded uniform numbers of a case, for one request.

    They are by the ids of tokens and codes; a sampler of ours takes its numbers by rank.
    """

    def __init__(self, runner: Any, recorded: Case, token_ids: Any) -> None:
        uniform = np.split(recorded.arrays["noise"], np.cumsum(recorded.arrays["noise_sizes"])[:-1])
        noise = [-torch.from_numpy(u).log() for u in uniform]
        self.slow = [each[token_ids] for each in noise[::11]]
        self.second = [each[token_ids] for each in noise[1::11]]
        self.fast = [torch.stack(noise[i + 2 : i + 11]) for i in range(0, len(noise), 11)]
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def noise(self, draws: Any, rows: int) -> Any:
        frame = draws[0].frame
        return self.slow[frame][None], self.fast[frame][None]

    def second_noise(self, draws: Any, rows: int) -> Any:
        return self.second[draws[0].frame][None]


@pytest.fixture(scope="module", params=[TorchRunner, CpuRunner])
def by_id(request, checkpoint, facts) -> Any:
    """A runner whose noise is by id, and the ids of its choices."""
    if request.param is CpuRunner and (fault := build.fault()):
        pytest.skip(fault)

    class ById(request.param):
        def _ready(self, graphs: Any) -> Any:
            choose = graphs.fast.choose

            def by_rank(logits: Any, *rest: Any) -> Any:
                *options, noise, top_k = rest
                order = logits.argsort(dim=-1, descending=True, stable=True)
                return choose(logits, *options, noise.gather(1, order), top_k)

            graphs.fast.choose = by_rank
            return graphs.extend, graphs.sample_token, graphs.fast_loop

    llama = engine_llama(load_llama(checkpoint))
    return ById(facts, llama.shape, llama.tensors, FULL), llama.token_ids


def test_a_sampled_run_is_replayed_from_its_noise(by_id, facts) -> None:
    recorded = case("sampled")
    batch = recorded.batches[0]
    asked = {name: recorded.options[name] for name in ("temperature", "top_p", "top_k")}
    sampling = sampling_from(asked | {"max_new_tokens": 25}, facts)
    assert (sampling.ras_window, sampling.repetition_penalty) == (10, 1.0)
    got = run(Replayed(by_id[0], recorded, by_id[1]), [(batch.prompt, sampling)])[0]
    np.testing.assert_array_equal(got.codes, batch.spoken)
    assert got.reason == "stop"


def test_the_norm_in_front_of_the_fast_transformer_matters(checkpoint, facts) -> None:
    """Without it nothing matches, so the cases see it."""
    llama = engine_llama(load_llama(checkpoint))
    plain = dataclasses.replace(llama.shape, norm_fast_input=False)
    runner = TorchRunner(facts, plain, llama.tensors, FULL)
    batch = case("plain").batches[0]
    got = run(runner, [(batch.prompt, dataclasses.replace(GREEDY, max_new_tokens=25))])[0]
    assert not np.array_equal(got.codes[:, :5], batch.spoken[:, :5])


def test_the_export_is_parity_checked_with_the_reference_class(checkpoint, tmp_path: Path) -> None:
    from export.lm import export_llama

    genuine = load_llama(checkpoint)
    found = export_llama(
        genuine, engine_llama(genuine), torch.bfloat16, tmp_path / "1", lambda _: None
    )
    assert len(found) == 6 and all(c.passed and c.error < 1e-4 for c in found)


def test_a_large_model_is_compared_with_its_weights_mapped(
    checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 all the same; its file is what a small one's is."""
    from export.lm import export_llama

    monkeypatch.setattr("families.fish_s2.checkpoint._LARGE", 0)
    genuine = load_llama(checkpoint)
    assert {p.dtype for p in genuine.parameters()} == {torch.bfloat16}
    llama = engine_llama(genuine)
    found = export_llama(genuine, llama, torch.bfloat16, tmp_path / "large", lambda _: None)
    assert [c.artefact for c in found] == ["fish_llama/llama.pt, weights mapped"] * 3
    assert all(c.passed and c.error < 1e-4 for c in found)
    monkeypatch.undo()
    genuine = load_llama(checkpoint)
    whole = engine_llama(genuine)
    export_llama(
        genuine, whole, torch.bfloat16, tmp_path / "whole", lambda _: None, torchscript_only=True
    )
    shape, tensors = load(tmp_path / "large" / "llama.pt")
    expected_shape, expected = load(tmp_path / "whole" / "llama.pt")
    assert shape == expected_shape and list(tensors) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


def test_a_large_model_that_differs_is_refused(
    checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.lm import export_llama

    monkeypatch.setattr("families.fish_s2.checkpoint._LARGE", 0)
    genuine = load_llama(checkpoint)
    llama = engine_llama(genuine)
    llama.tensors["slow.layers.2.down.weight"] = llama.tensors["slow.layers.1.down.weight"]
    found = export_llama(genuine, llama, torch.bfloat16, tmp_path / "1", lambda _: None)
    assert not any(c.passed for c in found[:2])


def test_a_dialogue_is_one_request_whose_turns_follow_each_other(runner, builder) -> None:
    """Batch after batch with the codes before it as history, as upstream's; and in any batch."""
    recorded = case("two_speakers_in_batches")
    builder.as_upstream, builder.max_bytes = True, recorded.options["chunk_length"]
    table, prefix, parts = builder.build_parts(recorded.text, recorded.references)
    expected = np.concatenate([batch.spoken for batch in recorded.batches], axis=1)
    limit = expected.shape[1]
    sampling = dataclasses.replace(GREEDY, max_new_tokens=limit)
    for slots, others in ((1, 0), (3, 4)):
        scheduler, collected = Scheduler(runner, slots), []
        for _ in range(1 + others):
            got = Collected()
            request = got.request(table, sampling, prefix)
            scheduler.submit(dataclasses.replace(request, parts=tuple(parts)))
            collected.append(got)
            scheduler.step()
        while scheduler.step():
            pass
        for got in collected:
            np.testing.assert_array_equal(got.codes, expected)
            assert got.reason == "length" and not got.errors


def test_a_dialogue_survives_running_out_of_memory(runner, builder) -> None:
    """Its row is given back in the second turn, and the codes are the same."""
    recorded = case("two_speakers_in_batches")
    builder.as_upstream, builder.max_bytes = True, recorded.options["chunk_length"]
    table, prefix, parts = builder.build_parts(recorded.text, recorded.references)
    expected = np.concatenate([batch.spoken for batch in recorded.batches], axis=1)
    got, scheduler = Collected(), Scheduler(runner, 2)
    sampling = dataclasses.replace(GREEDY, max_new_tokens=expected.shape[1])
    scheduler.submit(dataclasses.replace(got.request(table, sampling, prefix), parts=tuple(parts)))
    for _ in range(30):  # the first turn has 19 frames
        scheduler.step()
    scheduler.waiting.extendleft(reversed(scheduler.batch.halve()))
    while scheduler.step():
        pass
    np.testing.assert_array_equal(got.codes, expected)
