"""Voices by name: aliases, the voices folder, and recordings that come with a request."""

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from gateway.errors import ApiError
from gateway.recordings import recording_file
from gateway.servers import Servers
from gateway.settings import DEFAULT_VOICE, Aliases
from voicereel import InvalidRequest, VoiceFeatures
from voicereel.library import VoiceLibrary

ID_PREFIX = "voice_"
_ID_DIGITS = 24  # of the SHA-256 of a voice's content
_KEPT = 64  # encoded recordings of requests, some 20 kB each: a caller sends the same ones again


class Voices:
    """Finds the voice of a request; may be shared by threads.

    Attributes:
        library: The voices folder.
        aliases: Further names.
    """

    def __init__(self, folder: Path, aliases: Aliases, servers: Servers) -> None:
        self.library, self.aliases, self._servers = VoiceLibrary(folder), aliases, servers
        self._loaded: dict[Path, tuple[int, VoiceFeatures]] = {}
        self._encoded: OrderedDict[str, VoiceFeatures] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Every name that can be asked for: the folder's voices, the default, aliases."""
        found = [*self.library.names(), DEFAULT_VOICE]
        return found + [alias for alias in self.aliases.voices if alias not in found]

    def find(self, name: str) -> VoiceFeatures | None:
        """The voice of a name; None is the checkpoint's own.

        Raises:
            ApiError: 404, if there is none.
        """
        stands_for = name if name in self.library else self.aliases.voices.get(name, name)
        if stands_for not in self.library:
            stands_for = self._name_of_id(stands_for)
        if stands_for == DEFAULT_VOICE:
            return None
        if stands_for not in self.library:
            alias = f" (an alias of {stands_for!r})" if stands_for != name else ""
            known = ", ".join(self.names())
            raise ApiError(
                404, f"no voice {name!r}{alias}; there are {known}", "voice", "voice_not_found"
            )
        return self.load(self.library.path_of(stands_for))

    def _name_of_id(self, asked: str) -> str:
        """The name of the voice with this id; else what was asked for."""
        if not asked.startswith(ID_PREFIX):
            return asked
        names = self.library.names()
        return next((n for n in names if self.id_of(n) == asked), asked)

    def id_of(self, name: str) -> str:
        """The id of a voice in the folder, by its content: equal recordings have equal ids."""
        return f"{ID_PREFIX}{self.load(self.library.path_of(name)).sha256[:_ID_DIGITS]}"

    def with_references(
        self, voice: VoiceFeatures | None, references: tuple[tuple[bytes, str], ...]
    ) -> VoiceFeatures | None:
        """A voice that knows the recordings of a request too; blocks while they are encoded.

        Raises:
            ApiError: 422, if one is no recording.
            VoiceReelError: If it cannot be encoded.
        """
        for index, (recording, text) in enumerate(references):
            more = self.encode(recording, text, f"references.{index}.audio")
            voice = more if voice is None else voice + more
        return voice

    def encode(self, recording: bytes, text: str, param: str) -> VoiceFeatures:
        """Encode a recording; errors are those of `with_references`.

        Args:
            recording: The bytes of the file.
            text: The words spoken in it.
            param: Name of its field, for messages.
        """
        key = hashlib.sha256(hashlib.sha256(recording).digest() + text.encode()).hexdigest()
        with self._lock:
            if key in self._encoded:
                self._encoded.move_to_end(key)
                return self._encoded[key]
        with recording_file(recording, param) as path:
            try:
                voice = self._servers.call(lambda client: client.encode_voice(path, text))
            except InvalidRequest as error:  # it names a file of this machine
                raise ApiError(422, str(error).replace(str(path), param), param) from None
        with self._lock:
            self._encoded[key] = voice
            while len(self._encoded) > _KEPT:
                self._encoded.popitem(last=False)
        return voice

    def load(self, path: Path) -> VoiceFeatures:
        """The voice of a file, read when it has changed.

        Raises:
            ApiError: 500, if it is damaged.
        """
        try:
            changed = path.stat().st_mtime_ns
            kept = self._loaded.get(path)
            if kept is None or kept[0] != changed:
                kept = self._loaded[path] = changed, VoiceFeatures.load(path)
        except (OSError, InvalidRequest):
            raise ApiError(
                500, f"the file of voice {path.stem!r} cannot be read", "voice", "voice_damaged"
            ) from None
        return kept[1]
