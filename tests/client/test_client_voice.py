"""Voice files: read back complete and unchanged, or refused."""

import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from voicereel import InvalidRequest, VoiceFeatures


def voice(frames: int = 4, text: str = "Grüße", checkpoint_id: str = "abc") -> VoiceFeatures:
    codes = np.arange(10 * frames, dtype=np.int64).reshape(10, frames)
    return VoiceFeatures(codes, (frames,), (text,), checkpoint_id)


def test_save_and_load(tmp_path: Path) -> None:
    saved = voice(3) + voice(5, "two")
    saved.save(tmp_path / "voice")  # no suffix is appended
    loaded = VoiceFeatures.load(tmp_path / "voice")
    np.testing.assert_array_equal(loaded.codes, saved.codes)
    assert loaded.codes.dtype == np.int64
    assert (loaded.frames, loaded.texts, loaded.checkpoint_id) == ((3, 5), ("Grüße", "two"), "abc")
    assert loaded.sha256 == saved.sha256
    np.load(tmp_path / "voice", allow_pickle=False)["texts"]  # and no pickles in it


@pytest.mark.parametrize(
    "changed",
    [
        {"codes": voice().codes + 1},
        {"texts": np.array(["other"])},
        {"checkpoint_id": np.array("x")},
    ],
)
def test_a_changed_file_is_noticed(tmp_path: Path, changed: dict) -> None:
    voice().save(tmp_path / "voice.npz")
    arrays = dict(np.load(tmp_path / "voice.npz"))
    np.savez(tmp_path / "voice.npz", **(arrays | changed))
    with pytest.raises(InvalidRequest, match="damaged or edited"):
        VoiceFeatures.load(tmp_path / "voice.npz")


def test_every_damaged_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "voice.npz"
    voice().save(path)
    whole, intact = path.read_bytes(), voice().sha256
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with contextlib.suppress(InvalidRequest):
            assert VoiceFeatures.load(path).sha256 == intact
    for length in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidRequest, match="not a voice file"):
            VoiceFeatures.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return pytest.fail, ("a pickle was executed",)

    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", codes=np.zeros((10, 4), np.int64))
    np.savez(tmp_path / "objects.npz", codes=np.array([Trap()], np.object_))
    np.savez(tmp_path / "scalar.npz", codes=1, frames=1, texts="a", checkpoint_id="x", sha256="")
    for name in ("text.npz", "pickle.npz", "array.npy", "other.npz", "objects.npz", "scalar.npz"):
        with pytest.raises(InvalidRequest, match=f"{name} is not a voice file"):
            VoiceFeatures.load(tmp_path / name)
    with pytest.raises(InvalidRequest, match="no such file"):
        VoiceFeatures.load(tmp_path / "missing.npz")


def test_joining() -> None:
    joined = voice(3, "one") + voice(5, "two")
    assert joined.frames == (3, 5)
    np.testing.assert_array_equal(joined.codes[:, 3:], voice(5).codes)
    with pytest.raises(InvalidRequest, match="cannot be joined"):
        _ = voice() + voice(checkpoint_id="other")


@pytest.mark.parametrize(
    ("codes", "frames", "texts"),
    [
        (np.zeros((10, 4), np.int32), (4,), ("a",)),
        (np.zeros(4, np.int64), (4,), ("a",)),
        (np.zeros((10, 4), np.int64), (3,), ("a",)),
        (np.zeros((10, 4), np.int64), (4, 0), ("a", "b")),
        (np.zeros((10, 4), np.int64), (), ()),
        (np.zeros((10, 4), np.int64), (2, 2), ("a",)),
    ],
)
def test_parts_must_fit_together(codes: np.ndarray, frames: tuple, texts: tuple) -> None:
    with pytest.raises(InvalidRequest):
        VoiceFeatures(codes, frames, texts, "abc")
