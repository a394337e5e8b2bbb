"""The demo voice's training in S2's format: its sequences, its network and where it begins."""

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from ensemble.contract.voice import Reference
from families.fish_s1 import demo
from families.fish_s1.weights import read_llama
from families.fish_s2.prompt import PromptBuilder
from training import s2, settings
from training.llama import demo_tokenizer, labels_of, losses_of, new_llama, slow_half
from training.speech import Utterance, Voice

TEXTS = ("The train is late.", "Is it?", "Good morning, Bob.", "No.", "Yes.", "Who?")


class FakeCodes:
    """Six utterances of two voices, random codes."""

    utterances = tuple(Utterance(t, Voice("v", i % 2, 150), 0, 0) for i, t in enumerate(TEXTS))
    by_voice = ([0, 2, 4], [1, 3, 5])

    def __getitem__(self, index):
        return np.random.default_rng(index).integers(256, size=(10, 5 + index))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("s2-demo")


@pytest.fixture(scope="module")
def builder(folder) -> PromptBuilder:
    return s2.described(folder)


@pytest.fixture(scope="module")
def model(folder, builder) -> Any:
    return s2.new_model(folder).eval()


def prompts(builder: PromptBuilder, dialogues: float, unknown: float = 0.0) -> s2.Prompts:
    wanted = settings.S2(llama=settings.Llama(batch=3), dialogues=dialogues, unknown=unknown)
    return s2.Prompts(FakeCodes(), wanted, builder)  # type: ignore[arg-type]


def test_a_sequence_is_a_served_prompt_and_its_speech(builder) -> None:
    sequence = prompts(builder, 0.0).sequence(np.random.default_rng(0))
    codes, found = FakeCodes(), []
    for known, spoken in itertools.permutations(range(6), 2):
        prompt, _ = builder.build(TEXTS[spoken], [Reference(TEXTS[known], codes[known])])
        speech, end = builder.codes(codes[spoken]), builder.tokens([builder.facts.im_end_id])
        found.append(np.concatenate([prompt, speech, end], axis=1))
    assert any(np.array_equal(sequence, whole) for whole in found)


def test_two_voices_speak_in_turn(builder) -> None:
    drawn, codes = prompts(builder, 1.0), FakeCodes()
    for seed in range(8):
        sequence = drawn.sequence(np.random.default_rng(seed))
        text = [t for t in sequence[0] if t < builder.facts.semantic_begin_id]
        system, user = builder.encoding.decode(text).split("<|im_start|>user\n")
        assert [n for n, _ in said_in(system)] == [0, 1]
        speakers = [n for n, _ in said_in(user)]
        assert 2 <= len(speakers) <= settings.S2().turns
        assert all(a != b for a, b in itertools.pairwise(speakers))
        utterances = [TEXTS.index(words) for _, words in said_in(system) + said_in(user)]
        assert len({*utterances}) == len(utterances)
        speech = sequence[1:, sequence[0] >= builder.facts.semantic_begin_id]
        np.testing.assert_array_equal(speech, np.concatenate([codes[i] for i in utterances], 1))


def said_in(text: str) -> list[tuple[int, str]]:
    """Speakers and what they say."""
    return [(int(n), words) for n, words in re.findall(r"<\|speaker:(\d)\|>([^\n<]+)", text)]


def test_some_sequences_have_no_recording(builder) -> None:
    sequence = prompts(builder, 0.0, unknown=1.0).sequence(np.random.default_rng(0))
    assert (sequence[0] >= builder.facts.semantic_begin_id).sum() <= 10


@torch.no_grad()
def test_a_frame_is_heard_as_the_demo_voice_hears_it(model) -> None:
    upstream: Any = new_llama()
    upstream.load_state_dict(read_llama(demo.WEIGHTS / "model.pth"), strict=False)
    codes = torch.from_numpy(FakeCodes()[3])

    def heard(network: Any, begin: int, slow: Any) -> Any:
        states: list[Any] = []
        hook = network.layers[0].register_forward_pre_hook(lambda _, x: states.append(x[0]))
        slow(network, torch.cat([codes[:1] + begin, codes])[None])
        hook.remove()
        return states[0]

    torch.testing.assert_close(
        heard(model, model.tokenizer.semantic_begin_id, s2.slow_half),
        heard(upstream, demo_tokenizer().semantic_begin_id, slow_half),
    )


@torch.no_grad()
def test_the_slow_half_is_what_is_served(model, builder) -> None:
    sequence = prompts(builder, 1.0).sequence(np.random.default_rng(1))[None, :, :-4]
    batch = torch.from_numpy(sequence.astype(np.int64))
    logits, hidden = s2.slow_half(model, batch)
    served = copy.deepcopy(model)
    served.setup_caches(1, batch.shape[2], dtype=torch.float32)
    wanted = served.forward_generate(batch, torch.arange(batch.shape[2]))
    said = logits[0, -1].isfinite()
    assert said.sum() == 257  # codes, and the end
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(logits[0, -1][said], wanted.logits[0, -1][said], **close)
    state = model.fast_project_in(hidden[0, -1])
    torch.testing.assert_close(state, wanted.hidden_states[0, -1], **close)


def test_both_losses_reach_every_weight(model, builder) -> None:
    drawn = prompts(builder, 0.5)
    batch = drawn.batch(0)
    assert torch.equal(batch, drawn.batch(0))
    losses = losses_of(
        model, batch, labels_of(batch, drawn.begin), drawn.begin,
        settings.Llama(fast_share=1.0), s2.slow_half,
    )  # fmt: skip
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.zero_grad()


@torch.no_grad()
def test_the_fast_input_keeps_its_size(folder, builder) -> None:
    model: Any = s2.new_model(folder).eval()
    before, states = model.fast_project_in.weight.clone(), []
    hook = model.norm.register_forward_hook(lambda _, given, made: states.append((given[0], made)))
    drawn = prompts(builder, 0.5)
    batch = drawn.batch(0)
    s2.scale_fast_input(model, batch, drawn.begin)
    hook.remove()
    spoken = batch[:, 0] >= drawn.begin
    plain, normed = (state[spoken] for state in states[0])
    wanted, found = plain @ before.T, normed @ model.fast_project_in.weight.T
    sizes = [float(x.square().mean().sqrt()) for x in (found, wanted)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
