"""The transformers' training: sequences in the serving prompt's format, and their losses."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from families.fish_s1.upstream import ContentSequence, TextPart, VQPart
from training import settings
from training.llama import Prompts, corrupted, fast_logits, losses_of, new_llama
from training.speech import Utterance, Voice

TEXTS = ("The train is late.", "Is it?", "Good morning, Bob.", "No.")


class FakeCodes:
    """Four utterances of two voices, random codes."""

    utterances = tuple(Utterance(t, Voice("v", i % 2, 150), 0, 0) for i, t in enumerate(TEXTS))
    by_voice = ([0, 2], [1, 3])

    def __getitem__(self, index):
        return np.random.default_rng(index).integers(256, size=(10, 5 + index))


@pytest.fixture(scope="module")
def llama():
    return new_llama()


@pytest.fixture(scope="module")
def prompts(llama):
    return Prompts(FakeCodes(), settings.Llama(batch=3), llama.tokenizer)


def test_sequences_equal_upstreams(prompts, llama) -> None:
    codes = FakeCodes()
    sequence = ContentSequence(modality="interleave")
    for index in (2, 0):
        parts = [TextPart(text=TEXTS[index]), VQPart(codes=torch.from_numpy(codes[index]))]
        sequence.append(parts, add_end=True, speaker=0)
    expected, _, _ = sequence.encode_for_inference(llama.tokenizer, num_codebooks=10)
    np.testing.assert_array_equal(prompts.sequence([2, 0]), expected.numpy())


def test_losses_are_of_speech_and_its_end_alone(prompts) -> None:
    batch = prompts.batch(0)
    assert torch.equal(batch, prompts.batch(0))
    labels = prompts.labels(batch)
    wanted = labels[labels >= 0]
    ends, frames = (wanted == prompts.end).sum(), (wanted >= prompts.begin).sum()
    assert ends == 2 * len(batch)  # each utterance's
    assert frames == (batch[:, 0] >= prompts.begin).sum()
    assert ends + frames == len(wanted)


def test_only_codes_are_replaced(prompts) -> None:
    batch = prompts.batch(0)
    assert torch.equal(corrupted(batch, prompts.begin, 0.0), batch)
    torch.manual_seed(0)
    replaced = corrupted(batch, prompts.begin, 1.0)
    speech = batch[:, 0] >= prompts.begin
    assert torch.equal(replaced.movedim(1, 2)[~speech], batch.movedim(1, 2)[~speech])
    changed = (replaced != batch).movedim(1, 2)[speech].float().mean(0)
    assert torch.all((changed > 0.1) & (changed < 0.9)) and changed[0] == changed[1]
    assert torch.equal(replaced[:, 0][speech] - prompts.begin, replaced[:, 1][speech])


@torch.no_grad()
def test_the_fast_half_is_what_upstream_generates_with(llama, prompts) -> None:
    llama.eval().setup_caches(1, 64, dtype=torch.float32)
    codes = torch.from_numpy(FakeCodes()[3][:, :1]).T
    hidden = torch.randn(1, llama.config.dim)
    state = llama.fast_project_in(hidden)
    steps = [state, *llama.fast_embeddings(codes[0, :-1])]
    expected = [
        llama.forward_generate_fast(x.view(1, 1, -1), torch.tensor([i]))[0, -1]
        for i, x in enumerate(steps)
    ]
    for layer in (*llama.layers, *llama.fast_layers):
        layer.attention.kv_cache = None
    torch.testing.assert_close(fast_logits(llama, hidden, codes)[0], torch.stack(expected))


def test_both_losses_reach_every_weight(llama, prompts) -> None:
    llama.train()
    batch = prompts.batch(0)[:1]
    losses = losses_of(
        llama, batch, prompts.labels(batch), prompts.begin, settings.Llama(fast_share=1.0)
    )
    assert losses["residual"].item() == pytest.approx(np.log(256), rel=0.05)
    sum(losses.values()).backward()
    assert [n for n, p in llama.named_parameters() if p.grad is None] == []
    llama.zero_grad()
