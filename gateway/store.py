"""Voices that callers add: checked, encoded once, kept by name in the client's voices folder.

Beside NAME.npz, which the client reads too, lies NAME.json: when, and by whose consent. Both are
written whole or not at all.
"""

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import ApiError, invalid
from gateway.settings import DEFAULT_VOICE
from gateway.voices import Voices
from voicereel import InvalidRequest


@dataclass(frozen=True)
class Kept:
    """A voice in the folder.

    Attributes:
        id: By the content of the voice.
        name: Its name, of the file too.
        created_at: Seconds since 1970.
    """

    id: str
    name: str
    created_at: int

    def as_json(self) -> dict[str, Any]:
        return {"object": "audio.voice", "id": self.id, "name": self.name,
                "created_at": self.created_at}  # fmt: skip


class VoiceStore:
    """Adds, lists and removes voices; may be shared by threads."""

    def __init__(self, voices: Voices, limit: int) -> None:
        self._voices, self._limit, self._lock = voices, limit, threading.Lock()

    def all(self) -> list[Kept]:
        """Every voice that can be read, sorted by name."""
        found = []
        for name in self._voices.library.names():
            with suppress(ApiError):
                found.append(self._kept(name))
        return found

    def get(self, asked: str) -> Kept:
        """The voice of a name or an id.

        Raises:
            ApiError: 404, if there is none.
        """
        if asked in self._voices.library:
            return self._kept(asked)
        for kept in self.all():
            if kept.id == asked:
                return kept
        raise ApiError(404, f"no voice {asked!r}", "voice", "voice_not_found")

    def add(self, name: str, recording: bytes, transcript: str, consent: str) -> Kept:
        """Encode and keep a voice; blocks.

        Raises:
            ApiError: 422 for a name or recording that cannot be used, 409 for a name that is taken,
                507 if there are as many voices as allowed.
        """
        self._check_name(name)
        voice = self._voices.encode(recording, transcript, "audio_sample")
        with self._lock:
            self._check_name(name)  # another may have come first
            facts = {"created_at": int(time.time()), "consent": consent}
            path = self._facts_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".json.new")
            new.write_text(json.dumps(facts), "utf-8")
            os.replace(new, path)
            try:
                self._voices.library.add(name, voice)
            except InvalidRequest:
                path.unlink(missing_ok=True)
                raise ApiError(507, "the voice cannot be written; the log says why") from None
        return self._kept(name)

    def remove(self, asked: str) -> Kept:
        """Remove a voice; one that speaks now speaks to its end.

        Raises:
            ApiError: 404, if there is none.
        """
        with self._lock:
            kept = self.get(asked)
            self._voices.library.path_of(kept.name).unlink(missing_ok=True)
            self._facts_path(kept.name).unlink(missing_ok=True)
        return kept

    def rename(self, asked: str, name: str) -> Kept:
        """Give a voice another name; errors are those of `get` and `add`."""
        with self._lock:
            kept = self.get(asked)
            self._check_name(name, renames=1)
            old, new = self._voices.library.path_of(kept.name), self._voices.library.path_of(name)
            if self._facts_path(kept.name).exists():
                os.replace(self._facts_path(kept.name), self._facts_path(name))
            os.replace(old, new)
        return self._kept(name)

    def _check_name(self, name: str, renames: int = 0) -> None:
        library = self._voices.library
        try:
            library.path_of(name)
        except InvalidRequest as error:
            raise ApiError(422, str(error), "name") from None
        if name == DEFAULT_VOICE or name in self._voices.aliases.voices:
            raise invalid("name", f"is {name!r}, which stands for a voice here; choose another")
        names = library.names()
        if name in names:
            raise ApiError(409, f"there is a voice {name!r}; delete it first", "name", "name_taken")
        if len(names) >= self._limit + renames:
            raise ApiError(
                507, f"there are {len(names)} voices, which is the limit; delete one", code="full"
            )

    def _kept(self, name: str) -> Kept:
        path = self._voices.library.path_of(name)
        identity = self._voices.id_of(name)
        try:
            created = int(json.loads(self._facts_path(name).read_text("utf-8"))["created_at"])
        except (OSError, ValueError, KeyError, TypeError):  # added by `voicereel voice add`
            created = int(path.stat().st_mtime)
        return Kept(identity, name, created)

    def _facts_path(self, name: str) -> Path:
        return self._voices.library.path_of(name).with_suffix(".json")
