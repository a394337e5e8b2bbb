"""The voices that a user keeps by name: a folder of voice files."""

import os
import re
from pathlib import Path

from voicereel.errors import InvalidRequest
from voicereel.voice import VoiceFeatures

# Letters of any script; no slash and no leading dot, so that a name never becomes a path.
_NAME = re.compile(r"\w[\w .-]{0,63}")


class VoiceLibrary:
    """Voice files `FOLDER/NAME.npz`; the folder is created with the first voice.

    Attributes:
        folder: The folder of the voice files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, name: str) -> Path:
        """The file of the voice of this name, whether it exists or not.

        Raises:
            InvalidRequest: If the name is not allowed.
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"voice {name!r}: expected a name of letters, digits, spaces, dots and dashes"
            )
        return self.folder / f"{name}.npz"

    def __contains__(self, name: str) -> bool:
        return bool(_NAME.fullmatch(name)) and self.path_of(name).is_file()

    def add(self, name: str, voice: VoiceFeatures, *, replace: bool = False) -> Path:
        """Save a voice and return its file.

        Raises:
            InvalidRequest: If a voice of this name exists, or the file cannot be written.
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
        """The file that `add` would write, with the errors of `add`."""
        path = self.path_of(name)
        if path.exists() and not replace:
            raise InvalidRequest(f"voice {name} exists: {path}. Replace it with --force")
        return path

    def names(self) -> list[str]:
        """The names of all voices, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.npz"))

    def find(self, given: str) -> Path:
        """The file of a voice that is given by name or as a file.

        Raises:
            InvalidRequest: If there is neither a file nor a voice of that name.
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
