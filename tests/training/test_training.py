"""The training: what it learns from, what it learns, that it goes on where it stopped."""

import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from engine.codec.quantizer import quantizers
from families.fish_s1.upstream import ContentSequence, TextPart, VQPart
from training import codebooks, features, sentences, settings, speech
from training.codec import (
    Hearing,
    decode,
    decoder_losses,
    encode,
    encoder_losses,
    half_heard,
    joined,
    new_codec,
)
from training.codes import look_up
from training.device import DEVICE
from training.llama import Prompts, corrupted, fast_logits, losses_of, new_llama
from training.loop import Deadline, StoppedError, Trainer
from training.segments import Segments
from training.spectra import SpectralLoss, mel_filters
from training.speech import ESPEAK_RATE_HZ as RATE_HZ
from training.speech import Utterance, Voice, at_44100_hz

OPTIMISER = settings.Optimiser(steps=6, learning_rate=1e-2, warmup=2)
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


def test_the_split_is_fixed_and_every_sentence_is_of_the_grammar() -> None:
    assert sentences.is_held_out("The train is late.") is False
    rules = sentences.read_rules()
    drawn = {sentences.draw(rules, random.Random(seed)) for seed in range(300)}
    held_out = [text for text in drawn if sentences.is_held_out(text)]
    assert 0 < len(held_out) < len(drawn) / 8
    kept = next(sentences.sentences(3, held_out=True))
    assert sentences.is_held_out(kept)
    known = set(
        sentences.words(" ".join(" ".join(alternatives) for alternatives in rules.values())).split()
    )
    assert {word for text in drawn for word in sentences.words(text).split()} <= known


def test_the_grammar_for_the_recogniser_has_no_punctuation() -> None:
    rules = {"sentence": ["Good {time}, Bob."], "time": ["day", "night"]}
    assert sentences.jsgf(rules) == (
        "#JSGF V1.0;\ngrammar sentence;\n"
        "public <sentence> = good <time> bob;\n<time> = day | night;\n"
    )


def test_prompts_are_upstreams(prompts, llama) -> None:
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


def test_only_codes_are_spoiled(prompts) -> None:
    batch = prompts.batch(0)
    assert torch.equal(corrupted(batch, prompts.begin, 0.0), batch)
    torch.manual_seed(0)
    spoiled = corrupted(batch, prompts.begin, 1.0)
    speech = batch[:, 0] >= prompts.begin
    assert torch.equal(spoiled.movedim(1, 2)[~speech], batch.movedim(1, 2)[~speech])
    changed = (spoiled != batch).movedim(1, 2)[speech].float().mean(0)
    assert torch.all((changed > 0.1) & (changed < 0.9)) and changed[0] == changed[1]
    assert torch.equal(spoiled[:, 0][speech] - prompts.begin, spoiled[:, 1][speech])


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


def test_features_follow_a_gliding_voice() -> None:
    seconds = np.arange(features.FRAME * 12) / RATE_HZ
    hz = 120 + 40 * seconds
    turns = np.cumsum(hz) / RATE_HZ
    voice = sum(np.cos(2 * np.pi * n * turns) / n for n in range(1, 9)).astype(np.float32) / 8
    envelope, pitch, phase = features.raw_features(voice, RATE_HZ)
    assert (len(envelope), len(pitch), len(phase)) == (12, 12, 12)
    # The window of pitch and phase ends with the slice; its middle is where they belong.
    middles = np.arange(1, 49) * 256 - 384
    inside = slice(8, None)
    np.testing.assert_allclose(
        140 * pitch[2:, 1].exp(), hz[middles].reshape(12, 4)[2:, 3], rtol=0.01
    )
    turned = torch.view_as_complex(phase.reshape(-1, 2)).angle().numpy()[inside]
    off = np.angle(np.exp(1j * (turned - 2 * np.pi * turns[middles][inside])))
    assert np.abs(off).max() < 0.2
    changed = np.concatenate([voice[: 6 * features.FRAME], voice[::-1]])
    for ours, others in zip(
        features.raw_features(changed, RATE_HZ), (envelope, pitch, phase), strict=True
    ):
        torch.testing.assert_close(ours[:6], others[:6])  # from nothing behind a frame


def test_codebooks_are_found_the_way_upstream_looks_them_up() -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(4000, 128, generator=generator) / torch.arange(1, 129)
    codec = new_codec().eval()
    subjects = [slice(0, 60), slice(60, 128), *[slice(0, 128)] * 8]
    left = codebooks.fit(quantizers(codec), subjects, latents)
    assert left[0] < 0.5 and left[2:] == sorted(left[2:], reverse=True)
    codes, rounded = look_up(codec, latents[:200])
    assert len(codes[0].unique()) > 80
    error = (rounded - latents[:200]).square().sum() / latents[:200].square().sum()
    assert float(error) == pytest.approx(left[-1], rel=0.2)
    with torch.no_grad():
        genuine = codec.quantizer.semantic_quantizer.from_codes(codes[None, :1])[0]
        genuine = genuine + codec.quantizer.quantizer.from_codes(codes[None, 1:])[0]
    torch.testing.assert_close(genuine[0].T, rounded, atol=1e-4, rtol=1e-4)


def test_codec_step_is_what_the_genuine_class_does() -> None:
    codec = new_codec()
    latents = torch.randn(2, 128, 3, generator=torch.Generator().manual_seed(2))
    for part in (codec.quantizer.semantic_quantizer, codec.quantizer.quantizer):
        part.requires_grad_(False).eval()
    loss = SpectralLoss(((512, 40),), 44100, 1e-5)
    pieces = torch.randn(2, 1, 2048 * 3) * 0.1, latents
    found = decoder_losses(codec, *pieces, loss) | encoder_losses(codec, *pieces)
    sum(found.values()).backward()
    without = {n for n, p in codec.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()
    codec.eval()
    with torch.no_grad():
        codes, rounded = look_up(codec, latents[0].T)
        made = decode(codec, rounded.T[None])
        torch.testing.assert_close(codec.decode(codes[None], torch.tensor([3]))[0], made)
        waveform = torch.randn(1, 1, 2048 * 3) * 0.1
        known, _ = look_up(codec, encode(codec, waveform)[0].T)
        assert torch.equal(codec.encode(waveform)[0][0], known)
        heard, given = half_heard(codec, *pieces)
        torch.testing.assert_close(heard, encode(codec, pieces[0][:1])[0])
        assert torch.equal(given, latents[1])
        other = new_codec(seed=1).eval()
        both = joined(codec, other)
        torch.testing.assert_close(encode(both, waveform), encode(codec, waveform))
        assert not torch.allclose(decode(both, rounded.T[None]), made)


class FakeCorpus:
    """Three noises, the last shorter than a segment of two frames."""

    samples = np.random.default_rng(4).integers(-9000, 9000, 9000).astype(np.int16)
    utterances = tuple(
        Utterance("", Voice("v", 0, 150), *at) for at in ((0, 5000), (5000, 2600), (7600, 1400))
    )


def test_segments_are_pieces_of_resampled_utterances() -> None:
    corpus, frame = FakeCorpus(), features.FRAME
    starts = [0, 5, 8, 10]
    latents = features.Latents(torch.arange(20.0).view(10, 2), starts)
    segments = Segments(corpus, latents, batch=16, frames=2)
    waveforms, found = segments(0)
    assert torch.equal(segments(0)[1], found) and not torch.equal(segments(1)[1], found)
    for waveform, piece in zip(waveforms[:, 0].cpu().numpy(), found.cpu(), strict=True):
        row = int(piece[0, 0]) // 2
        assert piece.tolist() == [[2 * row, 2 * row + 2], [2 * row + 1, 2 * row + 3]]
        index = max(i for i in range(3) if starts[i] <= row)
        start, length = corpus.utterances[index].start, corpus.utterances[index].length
        whole = np.pad(at_44100_hz(corpus.samples[start : start + length]), (0, 4 * frame))
        first = 2 * (row - starts[index]) * frame
        inside = min(4 * frame, 2 * length - first)  # behind it, soxr's filter would still ring
        np.testing.assert_allclose(waveform[:inside], whole[first : first + inside], atol=1e-5)


def test_several_processes_speak_in_order(tmp_path) -> None:
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    wanted = settings.Data(voices=3, utterances_per_voice=2)
    corpus = speech.make_corpus(wanted, tmp_path)
    assert len(corpus.utterances) == 6 and corpus.utterances[0].text != corpus.utterances[1].text
    for utterance in corpus.utterances:
        expected = speech.speak(utterance.text, utterance.voice).astype(np.float32) / 32768
        np.testing.assert_array_equal(corpus.spoken(utterance), expected)


def test_features_do_not_depend_on_company() -> None:
    sounds = [np.random.default_rng(i).standard_normal(2000 + i).astype(np.float32) for i in (1, 2)]
    together = features.features_of(sounds)
    alone = [features.raw_features(sound, RATE_HZ) for sound in sounds]
    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(part, torch.cat(parts))


def test_spectral_loss() -> None:
    assert torch.all(mel_filters(128, 20, 44100).sum(1) > 0)
    loss = SpectralLoss(((512, 40), (128, 10)), 44100, 1e-5)
    sound = torch.randn(1, 4096) * 0.1
    assert [float(value) for value in loss(sound, sound)] == [0.0, 0.0]
    logarithm, amplitude = loss(0.1 * sound, sound)
    assert float(logarithm) == pytest.approx(1.0, abs=0.01)  # a factor of ten
    assert float(amplitude) == pytest.approx(0.9, abs=0.01)


def losses(model):
    return lambda step: {"square": (model(torch.randn(4, 3, device=DEVICE)) - step).square().mean()}


def trained(folder, stops: tuple[int, ...]):
    """Interrupted after so many steps, each time."""
    for stop in (*stops, OPTIMISER.steps):
        torch.manual_seed(99)
        trainer = Trainer("model", torch.nn.Linear(3, 1), OPTIMISER, folder)
        deadline = Deadline()
        type(deadline).over = property(lambda self, t=trainer, s=stop: t.step >= s)
        if stop < OPTIMISER.steps:
            with pytest.raises(StoppedError, match=f"stopped at step {stop}"):
                trainer.run(losses(trainer.model), deadline)
        else:
            trainer.run(losses(trainer.model), deadline)
    return trainer


def test_interrupted_training_ends_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Deadline, "over", False)
    whole, parts = trained(tmp_path / "whole", ()), trained(tmp_path / "parts", (1, 4))
    for module in ("model", "average"):
        pairs = zip(
            getattr(whole, module).parameters(), getattr(parts, module).parameters(), strict=True
        )
        assert all(torch.equal(one, other) for one, other in pairs)
    assert parts.done and not list((tmp_path / "parts").glob("*.part"))


def test_a_final_deadline_is_the_end(tmp_path) -> None:
    """However many steps that is: the learning rate has come down by then."""
    wanted = replace(OPTIMISER, steps=10**9, warmup=1)
    trainer = Trainer("model", torch.nn.Linear(3, 1), wanted, tmp_path)
    trainer.run(losses(trainer.model), Deadline(0.5 / 60, final=True))
    assert trainer.step > 1 and (tmp_path / "model.pt").is_file()
    (group,) = trainer.optimiser.param_groups
    assert group["lr"] == pytest.approx(0.1 * wanted.learning_rate, rel=0.3)


def test_the_decoder_hears_through_the_newest_encoder(tmp_path, monkeypatch) -> None:
    hearing = Hearing(tmp_path)
    assert hearing.codec is None
    codec = new_codec()
    for mark in (1.0, 2.0):
        with torch.no_grad():
            next(codec.parameters()).fill_(mark)
        torch.save({"average": codec.state_dict()}, tmp_path / "encoder.pt")
        os.utime(tmp_path / "encoder.pt", (mark, mark))
        hearing.look()
        assert (next(hearing.codec.parameters()) == mark).all()
