"""The corpus: its sentences, its sound, the latents and codebooks computed from it."""

import random
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from engine.codec.quantizer import quantizers
from training import codebooks, features, sentences, settings, speech
from training.codec import new_codec
from training.codes import look_up
from training.segments import Segments
from training.speech import ESPEAK_RATE_HZ as RATE_HZ
from training.speech import Utterance, Voice, at_44100_hz


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
    assert sentences.jsgf(rules, several=True) == (
        "#JSGF V1.0;\ngrammar sentence;\npublic <text> = <sentence>+;\n"
        "<sentence> = good <time> bob;\n<time> = day | night;\n"
    )


def test_features_follow_a_gliding_voice() -> None:
    seconds = np.arange(features.FRAME * 12) / RATE_HZ
    hz = 120 + 40 * seconds
    turns = np.cumsum(hz) / RATE_HZ
    voice = sum(np.cos(2 * np.pi * n * turns) / n for n in range(1, 9)).astype(np.float32) / 8
    envelope, pitch, phase = features.raw_features(voice, RATE_HZ)
    assert (len(envelope), len(pitch), len(phase)) == (12, 12, 12)
    # Pitch and phase belong to the middle of their window, which ends with the slice.
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
        torch.testing.assert_close(ours[:6], others[:6])  # a frame depends on nothing after it


def test_features_do_not_depend_on_the_batch() -> None:
    sounds = [np.random.default_rng(i).standard_normal(2000 + i).astype(np.float32) for i in (1, 2)]
    in_one_batch = features.features_of(sounds)
    single = [features.raw_features(sound, RATE_HZ) for sound in sounds]
    for part, parts in zip(in_one_batch, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(part, torch.cat(parts))


@pytest.mark.slow
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


class FakeCorpus:
    """Three utterances of noise, the last one shorter than a segment of two frames."""

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
        inside = min(4 * frame, 2 * length - first)  # after it soxr's filter still rings
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
