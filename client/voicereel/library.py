"""The voices that a user keeps by name: a folder of voice files."""

import os
import re
import unicodedata
from pathlib import Path

from voicereel.errors import InvalidRequest
from voicereel.places import check_place
from voicereel.text import broken_character, composed
from voicereel.voice import VoiceFeatures

# Marks within a word: apostrophes, hyphens, dots, and the joiners that Persian and Indic words
# have. No slash and no leading dot or dash, so that a name never becomes a path or an option.
_BETWEEN = frozenset(" '\u2019._-\u2010\u2011\u00b7\u30fb\u200c\u200d")
_MAX_CHARACTERS = 64
_MAX_BYTES = 200  # of UTF-8; file names have at most 255, endings included
# Names of devices on Windows, whatever their ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class VoiceLibrary:
    """Voice files `FOLDER/NAME.npz`; the folder is created with the first voice.

    A name may be written with composed or decomposed marks; files are written composed (NFC), and
    found in either form.

    Attributes:
        folder: The folder of the voice files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, name: str) -> Path:
        """The file of the voice of this name, whether it exists or not.

        Raises:
            InvalidRequest: If there is none, and the name is not allowed.
        """
        if stored := self._stored(name):
            return stored
        if problem := _problem(composed(name)):
            raise InvalidRequest(
                f"voice {name!r}: {problem}; expected a name of letters, digits, spaces, dots, "
                f"dashes and apostrophes that begins with a letter or digit, at most "
                f"{_MAX_CHARACTERS} characters"
            )
        return self.folder / f"{composed(name)}.npz"

    def _stored(self, name: str) -> Path | None:
        """The file of a voice that is kept, in whatever form its name was written."""
        name = composed(name)
        path = self.folder / f"{name}.npz"
        if not _problem(name) and self._is_kept(path):  # whatever the file system makes of its case
            return path
        kept = {composed(path.stem): path for path in self._kept()}
        return kept.get(name)

    def _kept(self) -> list[Path]:
        """Every voice file."""
        return [path for path in self.folder.glob("*.npz") if self._is_kept(path)]

    def _is_kept(self, path: Path) -> bool:
        """Whether it is a file of this folder, and no link out of it."""
        try:
            is_within = path.resolve().parent == self.folder.resolve()
        except (OSError, RuntimeError):  # links in a circle
            return False
        return is_within and path.is_file()

    def __contains__(self, name: str) -> bool:
        return self._stored(name) is not None

    def add(self, name: str, voice: VoiceFeatures, *, replace: bool = False) -> Path:
        """Save a voice and return its file.

        Raises:
            InvalidRequest: If a voice of this name exists, or the file cannot be written.
        """
        path = self.place_for(name, replace=replace)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)  # a link would be followed
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
        folder = next(f for f in (self.folder, *self.folder.absolute().parents) if f.exists())
        check_place(folder / path.name if folder == self.folder else folder / ".voicereel")
        return path

    def names(self) -> list[str]:
        """The names of all voices, sorted."""
        return sorted(composed(path.stem) for path in self._kept())

    def find(self, given: str) -> Path:
        """The file of a voice that is given by name or as a file.

        A voice that is kept comes before a file of the same name; `./NAME` is the file.

        Raises:
            InvalidRequest: If there is neither a file nor a voice of that name.
        """
        if Path(given).suffix.lower() == ".npz":
            return Path(given)
        if stored := self._stored(given):
            return stored
        if os.path.isfile(given):
            return Path(given)
        raise self.unknown(given)

    def named(self, name: str) -> Path:
        """The file of a voice that is kept under a name; no path is followed.

        Raises:
            InvalidRequest: If there is none.
        """
        if stored := self._stored(name):
            return stored
        raise self.unknown(name)

    def unknown(self, given: str) -> InvalidRequest:
        """The error for a voice that there is not."""
        known = ", ".join(self.names()) or "none"
        return InvalidRequest(
            f"no voice {given!r}: it is neither a file nor in {self.folder}, which has {known}. "
            "Add one: voicereel voice add NAME RECORDING --text WORDS"
        )


def _problem(name: str) -> str:
    """Why a composed name is no safe file name everywhere; "" if it is one."""
    if problem := broken_character(name):
        return problem
    if not name:
        return "it is empty"
    if not (name[0].isalnum() or name[0] == "_"):
        return f"it begins with {name[0]!r}"
    for character in name:
        if character not in _BETWEEN and unicodedata.category(character)[0] not in "LMN":
            return f"it holds {character!r}"
    if name.lower().endswith(".npz"):  # `find` takes it for a file
        return "it ends like a voice file"
    if name[-1] in " .":  # Windows drops them
        return f"it ends with {name[-1]!r}"
    if len(name) > _MAX_CHARACTERS or len(name.encode()) > _MAX_BYTES:
        return f"it has {len(name)} characters, {len(name.encode())} bytes in UTF-8"
    if _RESERVED.fullmatch(name):
        return "Windows keeps that name for a device"
    return ""
