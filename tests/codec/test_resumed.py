"""The decoder goes on only behind the very history that it kept, for a stand-in of the codec.

Its audio is a number made of all codes that can be heard and of the position, so that going on
behind another history is heard. The same for the real codec: tests/codec/test_session.py.
"""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engine.codec import session
from engine.codec.session import DecoderSession

HISTORY, BOOKS, FRAME = 12, 10, 2  # frames that can be heard, rows of codes, samples per frame
FACTS = {
    "history_frames": str(HISTORY),
    "samples_per_frame": str(FRAME),
    "codebooks": str(BOOKS),
    "frames": "4096",
}
PAUSE = 7


class Codec:
    """What `KernelDecoder` gives, with states that hold codes and positions as they are."""

    def begin(self, rows: int):
        return torch.zeros(rows, 1, 1, 1, 0, 1 + BOOKS), torch.zeros(rows, 0, 1)

    def resume(self, codes, numbers, history, before, context):
        rows, _, frames = codes.shape
        ends = numbers[:, -1:] + 1
        positions = ends - frames + torch.arange(frames)
        new = torch.cat([positions[:, None], codes[:, :BOOKS]], 1).double().transpose(1, 2)
        known = torch.cat([before[:, 0, 0, 0].double(), new], 1)  # rows, frames, 1 + books
        heard = torch.stack(
            [
                self.sound(known[:, max(0, end - HISTORY - 1) : end])
                for end in range(known.shape[1] - numbers.shape[1] + 1, known.shape[1] + 1)
            ],
            dim=1,
        )
        audio = heard.repeat_interleave(FRAME, 1).float()
        kept = known[:, -HISTORY:, :][:, None, None, None].float()
        return audio, kept, torch.zeros(rows, 1, 1)

    @staticmethod
    def sound(heard):
        """Of (rows, frames, 1 + books): each number counts, and differently."""
        age = torch.arange(heard.shape[1], 0, -1, dtype=torch.float64)
        weights = torch.outer(1 / (age + 0.5), torch.arange(1, 2 + BOOKS).double().sqrt())
        return torch.sin((heard * weights).sum((1, 2)))


def window(codes: np.ndarray, begin: int, end: int) -> dict[str, np.ndarray]:
    """Frames begin to end of a stream, int64 (books, frames), with the history that is heard."""
    first = max(0, begin - HISTORY)
    return {"codes": codes[None, :, first:end], "new_frames": np.arange(begin, end)[None]}


def decoder() -> DecoderSession:
    return DecoderSession(Codec(), FACTS)


def random_codes(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 64, (BOOKS, frames))


def heard(run: DecoderSession, codes: np.ndarray, begin: int, end: int, resumed: bool) -> None:
    """A window sounds as if nothing had been kept; whether something was, is as expected."""
    before = run.resumed
    found = run(window(codes, begin, end))
    np.testing.assert_array_equal(found, decoder()(window(codes, begin, end)))
    assert run.resumed - before == resumed


def test_a_stream_goes_on_behind_itself() -> None:
    run, codes = decoder(), random_codes(60)
    for begin, end in pairwise((0, 3, 8, 24, 25, 60)):
        heard(run, codes, begin, end, resumed=begin > 0)


def test_a_stream_with_a_repeated_pause_finds_each_pause_at_its_own_place() -> None:
    """All of the history is the same code then: only the position tells them apart."""
    run, codes = decoder(), np.full((BOOKS, 200), PAUSE)
    ends = (0, 20, 40, 60)
    for begin, end in pairwise(ends):
        run(window(codes, begin, end))
    for end in (80, 100, 133):  # these have not been decoded
        heard(run, codes, end, end + 5, resumed=False)
    heard(run, codes, 60, 80, resumed=True)


@pytest.mark.parametrize("moved", [-1, 1, HISTORY, 64])
def test_only_the_position_differs(moved) -> None:
    run, codes = decoder(), random_codes(40)
    run(window(codes, 0, 20))
    numbers = np.arange(20 + moved, 25 + moved)[None]
    asked = {"codes": codes[None, :, 20 - HISTORY : 25], "new_frames": numbers}
    np.testing.assert_array_equal(run(asked), decoder()(asked))
    assert run.resumed == 0


@pytest.mark.parametrize("age", range(1, HISTORY + 1))
@pytest.mark.parametrize("book", [0, BOOKS - 1])
def test_only_one_code_differs_however_old(age, book) -> None:
    run, codes = decoder(), random_codes(40)
    other = codes.copy()
    other[book, 30 - age] += 1
    run(window(codes, 0, 30))
    heard(run, other, 30, 35, resumed=False)
    heard(run, codes, 30, 35, resumed=True)


def test_a_code_that_cannot_be_heard_does_not_count() -> None:
    run, codes = decoder(), random_codes(40)
    other = codes.copy()
    other[:, 30 - HISTORY - 1] += 1
    run(window(codes, 0, 30))
    heard(run, other, 30, 35, resumed=True)


def test_two_pauses_behind_unlike_words() -> None:
    """The last frames are those of the pause, the ones before them are not."""
    run, pause = decoder(), np.full((BOOKS, 5), PAUSE)
    words = [np.concatenate([random_codes(20, seed), pause, pause], axis=1) for seed in (1, 2)]
    run(window(words[0], 0, 25))
    heard(run, words[1], 25, 30, resumed=False)
    heard(run, words[0], 25, 30, resumed=True)


def test_a_shorter_history_is_another_one() -> None:
    """Before its first frame there was nothing, not what another caller had there."""
    run, codes = decoder(), random_codes(40)
    run(window(codes, 0, 30))
    short = {"codes": codes[None, :, 25:35], "new_frames": np.arange(30, 35)[None]}
    np.testing.assert_array_equal(run(short), decoder()(short))
    assert run.resumed == 0


@pytest.mark.parametrize("books", [BOOKS + 2, 2 * BOOKS])
def test_codes_of_another_shape_with_the_same_bytes(books) -> None:
    """More rows than the codec reads, fewer frames: the same numbers in another order."""
    run = decoder()
    rows, frames = (2 * BOOKS, 6) if books == 2 * BOOKS else (BOOKS + 2, 10)
    many = np.full((1, rows, frames + 4), PAUSE)
    run({"codes": many[:, :, :frames], "new_frames": np.arange(20 - frames, 20)[None]})
    few = np.full((1, BOOKS, HISTORY + 4), PAUSE)
    asked = {"codes": few, "new_frames": np.arange(20, 24)[None]}
    np.testing.assert_array_equal(run(asked), decoder()(asked))
    assert run.resumed == 0


def test_names_of_states_differ_by_shape_number_and_codes() -> None:
    """All that counts, whatever bytes an attacker arranges; and numbers that do not count up."""
    codes = np.arange(120)
    shapes = [(10, 12), (12, 10), (20, 6), (120, 1), (1, 120)]
    names = [session._key(codes.reshape(shape), end) for shape in shapes for end in (12, 13)]
    names += [session._key(codes[::-1].reshape(10, 12), 12), session._key(codes[:0], 12)]
    assert len(set(names)) == len(names)
    assert all(len(name) == 32 for name in names)
    run, asked = decoder(), window(random_codes(20), 8, 20)
    for numbers in (np.zeros(12, int), np.arange(8, 20)[::-1], np.arange(8, 20) * 2):
        with pytest.raises(ValueError, match="does not count up frame by frame"):
            run({**asked, "new_frames": numbers[None]})
    assert not run._states


def test_rows_of_a_batch_keep_their_own_states() -> None:
    """In another order, by themselves, or with other streams, each finds the state that it left."""
    run, streams = decoder(), [random_codes(40, seed) for seed in range(4)]
    first = [window(codes, 0, 20) for codes in streams]
    run({name: np.concatenate([w[name] for w in first]) for name in first[0]})
    stranger = random_codes(40, seed=7)
    order = [streams[2], stranger, streams[0]]
    second = [window(codes, 20, 30) for codes in order]
    found = run({name: np.concatenate([w[name] for w in second]) for name in second[0]})
    for row, codes in zip(found, order, strict=True):
        np.testing.assert_array_equal(row, decoder()(window(codes, 20, 30))[0])
    assert run.resumed == 2
    heard(run, streams[3], 20, 30, resumed=True)
