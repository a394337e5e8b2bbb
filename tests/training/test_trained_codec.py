"""The codec's training: one step of each half, and the encoder that the decoder hears through."""

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from training.codec import (
    SavedEncoder,
    decode,
    decoder_losses,
    encode,
    encoder_losses,
    half_encoded,
    joined,
    new_codec,
)
from training.codes import look_up
from training.spectra import SpectralLoss, mel_filters


def test_spectral_loss() -> None:
    assert torch.all(mel_filters(128, 20, 44100).sum(1) > 0)
    loss = SpectralLoss(((512, 40), (128, 10)), 44100, 1e-5)
    sound = torch.randn(1, 4096) * 0.1
    assert [float(value) for value in loss(sound, sound)] == [0.0, 0.0]
    logarithm, amplitude = loss(0.1 * sound, sound)
    assert float(logarithm) == pytest.approx(1.0, abs=0.01)  # a factor of ten
    assert float(amplitude) == pytest.approx(0.9, abs=0.01)


@pytest.mark.slow
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
        found, given = half_encoded(codec, *pieces)
        torch.testing.assert_close(found, encode(codec, pieces[0][:1])[0])
        assert torch.equal(given, latents[1])
        other = new_codec(seed=1).eval()
        both = joined(codec, other)
        torch.testing.assert_close(encode(both, waveform), encode(codec, waveform))
        assert not torch.allclose(decode(both, rounded.T[None]), made)


@pytest.mark.slow
def test_the_newest_saved_encoder_is_used(tmp_path, monkeypatch) -> None:
    saved = SavedEncoder(tmp_path)
    assert saved.codec is None
    codec = new_codec()
    for mark in (1.0, 2.0):
        with torch.no_grad():
            next(codec.parameters()).fill_(mark)
        torch.save({"average": codec.state_dict()}, tmp_path / "encoder.pt")
        os.utime(tmp_path / "encoder.pt", (mark, mark))
        saved.reload()
        assert (next(saved.codec.parameters()) == mark).all()
