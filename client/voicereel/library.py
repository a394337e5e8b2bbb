"""Voices kept by name: a folder of voice files."""

import os
import re
from pathlib import Path

from voicereel.errors import InvalidRequest
from voicereel.voice import VoiceFeatures

_NAME = re.compile(r"\w[\w .-]{0,63}")  # of any script; never a path


class VoiceLibrary:
    """`FOLDER/NAME.npz`; made with the first voice.

    Attributes:
        folder: Where the voices lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, name: str) -> Path:
        """Where the voice of this name lies, or would.

        Raises:
            InvalidRequest: If it is no name.
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"voice {name!r}: expected a name of letters, digits, spaces, dots and dashes"
            )
        return self.folder / f"{name}.npz"

    def __contains__(self, name: str) -> bool:
        return bool(_NAME.fullmatch(name)) and self.path_of(name).is_file()

    def add(self, name: str, voice: VoiceFeatures, *, replace: bool = False) -> Path:
        """Keep a voice; returns its file.

        Raises:
            InvalidRequest: If there is one of this name already, or it cannot be written.
        """
        path = self.place_for(name, replace=replace)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            voice.save(new)
            os.replace(new, path)
        except OSError as error:
            raise InvalidRequest(f"cannot write {path}: {error.strerror}") from None
        return path

    def place_for(self, name: str, *, replace: bool) -> Path:
        """Where a voice may be added; errors as in `add`."""
        path = self.path_of(name)
        if path.exists() and not replace:
            raise InvalidRequest(f"voice {name} exists: {path}. Replace it with --force")
        return path

    def names(self) -> list[str]:
        """Of all voices, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.npz"))

    def find(self, given: str) -> Path:
        """The file of a voice given by name, or as a file.

        Raises:
            InvalidRequest: If there is neither.
        """
        if Path(given).suffix.lower() == ".npz" or os.path.isfile(given):
            return Path(given)
        if given in self:
            return self.path_of(given)
        known = ", ".join(self.names()) or "none"
        raise InvalidRequest(
            f"no voice {given!r}: it is neither a file nor in {self.folder}, which has {known}. "
            "Add one: voicereel voice add NAME RECORDING --text WORDS"
        )
