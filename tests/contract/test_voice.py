"""What callers say of a voice: recordings, and references of one voice."""

import dataclasses

import numpy as np
import pytest

from ensemble.contract.reference import BUCKET_FRAMES, CHUNK_FRAMES, chunk_frames, padded_reference
from ensemble.contract.voice import PromptError, codes_from_flat, references_from
from support.facts import FACTS


def test_padding_to_a_bucket_keeps_the_samples() -> None:
    audio = np.linspace(-1, 1, 100_000, dtype=np.float32)
    padded, frames = padded_reference(audio, 44100, FACTS)
    assert frames == 49
    assert len(padded) == 2 * BUCKET_FRAMES * 2048
    np.testing.assert_array_equal(padded[:100_000], audio)
    assert not padded[100_000:].any()


def test_no_bucket_beyond_what_the_codec_takes() -> None:
    facts = dataclasses.replace(FACTS, max_reference_frames=50)
    padded, frames = padded_reference(np.zeros(50 * 2048, np.float32), None, facts)
    assert (len(padded), frames) == (50 * 2048, 50)


@pytest.mark.parametrize(
    ("size", "frames"),
    [
        (None, CHUNK_FRAMES), (0.001, 1), (0.0465, 2), (1, 22), (10, 216), (285.3, 6144),
        (1e30, 6144), (float("inf"), 6144),
    ],
)  # fmt: skip
def test_a_chunk_is_whole_frames(size, frames) -> None:
    assert chunk_frames(size, FACTS) == frames


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("-inf")])
def test_no_chunk(size) -> None:
    with pytest.raises(ValueError, match=f"chunk_size_s is {size}, expected seconds above 0"):
        chunk_frames(size, FACTS)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(0), None, "0 samples, expected at least 4410"),
        (np.zeros(44100), 16000, "16000 Hz, expected 44100"),
        (np.full(44100, np.nan), None, "NaN"),
        (np.full(44100, np.inf), 44100, "NaN or infinity"),
        (np.full(44100, 3000.0), None, "peaks at 3000"),
        (np.zeros(44100 * 600), None, r"lasts 600.0 s, expected at most 285.3 s, .* prompt can"),
    ],
)
def test_unusable_recordings(audio, rate, message) -> None:
    with pytest.raises(ValueError, match=message):
        padded_reference(audio.astype(np.float32), rate, FACTS)


def test_references_are_cut_apart() -> None:
    codes = np.arange(100).reshape(10, 10)
    first, second = references_from(["a", "b"], codes, np.array([3, 5]))
    np.testing.assert_array_equal(first.codes, codes[:, :3])
    np.testing.assert_array_equal(second.codes, codes[:, 3:8])
    (whole,) = references_from(["a"], codes, None)
    assert whole.codes.shape == (10, 10)
    assert references_from([], None, None) == []
    assert references_from([], np.zeros((10, 0)), None) == []


@pytest.mark.parametrize(
    ("texts", "codes", "frames", "message"),
    [
        (["a"], None, None, "1 texts for 0 recordings"),
        ([], np.zeros((10, 4)), None, "0 texts for 1 recordings"),
        (["a", "b"], np.zeros((10, 4)), None, "2 texts for 1"),
        (["a"], np.zeros((10, 4)), np.array([5]), "add up to at most the 4 frames"),
        (["a", "b"], np.zeros((10, 4)), np.array([4, 0]), "positive counts"),
    ],
)
def test_references_that_do_not_fit_together(texts, codes, frames, message) -> None:
    with pytest.raises(PromptError, match=message):
        references_from(texts, codes, frames)


def flattened(codes: list[np.ndarray], padded: bool) -> np.ndarray:
    """What fish_encode answers for each recording, without shapes, one after the other."""
    widths = [-(-c.shape[1] // BUCKET_FRAMES) * BUCKET_FRAMES * padded for c in codes]
    return np.concatenate(
        [
            np.pad(c, ((0, 0), (0, max(0, width - c.shape[1])))).ravel()
            for c, width in zip(codes, widths, strict=True)
        ]
    )


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("frames", [[20], [32], [20, 33, 64]])
def test_flat_codes_get_their_shape_back(frames, padded) -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 64, (10, n)) for n in frames]
    shaped = codes_from_flat(flattened(codes, padded), np.array(frames), FACTS)
    np.testing.assert_array_equal(shaped, np.concatenate(codes, axis=1))


def test_flat_codes_of_one_recording_need_no_count() -> None:
    codes = np.arange(120).reshape(10, 12)
    np.testing.assert_array_equal(codes_from_flat(codes.ravel(), None, FACTS), codes)


@pytest.mark.parametrize(
    ("numbers", "frames"),
    [(15, None), (15, [1]), (320, [33]), (320, [0]), (320, []), (640, [20, 33]), (320, [-1])],
)
def test_flat_codes_that_are_not_so_many(numbers, frames) -> None:
    counts = None if frames is None else np.array(frames)
    with pytest.raises(PromptError, match=f"codes has {numbers} numbers .*what fish_encode answer"):
        codes_from_flat(np.zeros(numbers, np.int64), counts, FACTS)
