"""Voice features: recordings of a speaker, encoded once and sent with every request."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from voicereel.arrays import NO_ARRAYS, arrays_in
from voicereel.errors import InvalidRequest
from voicereel.places import open_file


@dataclass(frozen=True, eq=False)
class VoiceFeatures:
    """One or more recordings of a voice as codec codes, with their texts.

    Attributes:
        codes: int64 (codebooks, frames), the recordings concatenated, without padding.
        frames: Frames of each recording.
        texts: The words spoken in each recording.
        checkpoint_id: The checkpoint that made the codes; no other one can use them.

    Raises:
        InvalidRequest: If the attributes contradict each other.
    """

    codes: np.ndarray
    frames: tuple[int, ...]
    texts: tuple[str, ...]
    checkpoint_id: str

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.dtype != np.int64:
            raise InvalidRequest(
                f"codes are {self.codes.dtype} {self.codes.shape}, expected int64 "
                "(codebooks, frames)"
            )
        if not self.frames or min(self.frames) < 1 or sum(self.frames) != self.codes.shape[1]:
            raise InvalidRequest(
                f"frames are {self.frames}, expected positive counts that add up to the "
                f"{self.codes.shape[1]} frames of codes"
            )
        if len(self.texts) != len(self.frames):
            raise InvalidRequest(
                f"{len(self.texts)} texts for {len(self.frames)} recordings, expected one each"
            )

    def __add__(self, other: "VoiceFeatures") -> "VoiceFeatures":
        """A voice with the recordings of both."""
        if self.checkpoint_id != other.checkpoint_id or len(self.codes) != len(other.codes):
            raise InvalidRequest(
                f"voices of checkpoints {self.checkpoint_id!r} and {other.checkpoint_id!r} cannot "
                "be joined. Encode both with the same server."
            )
        return VoiceFeatures(
            np.concatenate([self.codes, other.codes], axis=1),
            self.frames + other.frames,
            self.texts + other.texts,
            self.checkpoint_id,
        )

    def split_codes(self) -> list[np.ndarray]:
        """The codes of each recording: int64 (codebooks, its frames)."""
        return np.split(self.codes, np.cumsum(self.frames)[:-1], axis=1)

    @property
    def sha256(self) -> str:
        """Hash of all attributes; the file holds it too, so that damage is noticed."""
        content = [self.checkpoint_id, self.texts, self.frames, self.codes.shape]
        digest = hashlib.sha256(json.dumps(content).encode())
        digest.update(np.ascontiguousarray(self.codes, "<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz file, without pickles, readable by `numpy.load` everywhere."""
        with Path(path).open("wb") as file:  # given a name, numpy would append .npz to it
            np.savez_compressed(
                file,
                codes=self.codes,
                frames=np.array(self.frames, np.int32),
                texts=np.array(self.texts, np.str_),
                checkpoint_id=np.array(self.checkpoint_id),
                sha256=np.array(self.sha256),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "VoiceFeatures":
        """Read a file that `save` wrote.

        Raises:
            InvalidRequest: If there is no such file, it is no voice file, or it was changed.
        """
        if not os.path.exists(path):
            raise InvalidRequest(f"{path}: no such file")
        try:
            with open_file(path, _MAX_FILE_BYTES) as file:
                voice, sha256 = cls._from(arrays_in(file))
        except _NOT_A_VOICE as error:
            if isinstance(error, InvalidRequest) and str(path) in str(error):
                raise
            raise InvalidRequest(
                f"{path} is not a voice file ({str(error)[:200]}). Make one with: "
                "python -m voicereel voice encode RECORDING --text WORDS -o VOICE.npz"
            ) from None
        if sha256 != voice.sha256:
            raise InvalidRequest(f"{path} was damaged or edited: its content hash is wrong")
        return voice

    @classmethod
    def _from(cls, arrays: dict[str, np.ndarray]) -> tuple["VoiceFeatures", str]:
        voice = cls(
            arrays["codes"],
            tuple(int(count) for count in arrays["frames"]),
            tuple(str(text) for text in arrays["texts"]),
            str(arrays["checkpoint_id"]),
        )
        return voice, str(arrays["sha256"])


# A voice can be given as its features, as a .npz file of features, or as a recording.
Voice: TypeAlias = str | os.PathLike[str] | VoiceFeatures

_MAX_FILE_BYTES = 8e6  # codes of hours of recordings

# Errors of `arrays_in` and of `_from` for files that are no voice files.
_NOT_A_VOICE = (*NO_ARRAYS, InvalidRequest)
