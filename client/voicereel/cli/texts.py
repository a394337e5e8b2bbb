"""What to say, as the command line gives it: an argument, a file, or standard input."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from voicereel.cli.session import console
from voicereel.errors import InvalidRequest
from voicereel.text import MAX_BYTES, decoded, read_text

STANDARD_INPUT = "-"
_TEXTS = (".txt", ".text", ".md", ".rst", ".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".html")
_SCRIPTS = (".json", ".yaml", ".yml", ".srt", ".vtt")
_DASH = "A text that begins with a dash goes last, after two dashes: voicereel say -o FILE -- TEXT"


class TextCommand(TyperCommand):
    """A command whose argument is a text, which may begin with a dash where it is no option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, self._texts_last(args))
        except Exception as error:  # Typer's versions have Click's classes in different places
            if hasattr(error, "option_name") and hasattr(error, "message"):
                error.message += f". {_DASH}"  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def _texts_last(self, args: list[str]) -> list[str]:
        """Put texts such as "- Good morning." and "-5 degrees" where no options are expected."""
        values = {
            name: not getattr(option, "is_flag", False)
            for option in self.params
            for name in getattr(option, "opts", [])
            if name.startswith("-")
        }
        options, texts = [], []
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                return [*options, "--", *texts, *rest]
            if values.get(arg):
                options += [arg, *[value for value in [next(rest, None)] if value is not None]]
            elif _is_text(arg, values):
                texts.append(arg)
            else:
                options.append(arg)
        return [*options, "--", *texts] if texts else options


def _is_text(arg: str, names: dict[str, bool]) -> bool:
    if not arg.startswith("-") or arg == STANDARD_INPUT:
        return False
    if arg[1:2].isspace() or arg[1:2].isdigit():
        return True
    is_option = arg.partition("=")[0] in names or arg[:2] in names
    return not is_option and any(map(str.isspace, arg))


def given_text(argument: str | None, file: str | None) -> str:
    """The text of a command's argument, of a file, or of standard input for `-`.

    Raises:
        InvalidRequest: If there is none or there are two, or the argument names a file.
    """
    if argument is None and file is None:
        raise InvalidRequest(
            "there is no text. Give one, or --text-file FILE; a single dash reads standard input. "
            + _DASH
        )
    if argument is not None and file is not None:
        raise InvalidRequest("there are two texts, an argument and --text-file. Give one.")
    if STANDARD_INPUT in (argument, file):
        text, source = decoded(read_standard_input(), "standard input"), "standard input"
    elif file is not None:
        if Path(file).suffix.lower() in _SCRIPTS:
            raise InvalidRequest(
                f"{file} is a script, expected a text. Speak it: voicereel script {file} -o FILE"
            )
        text, source = read_text(file), file
    else:
        check_is_no_file(argument or "", "--text-file {}")
        text, source = argument or "", "the text"
    if not text.strip():
        raise InvalidRequest(f"{source} has no words to say")
    if "\0" in text:
        raise InvalidRequest(f"{source} is no text: it holds NUL bytes")
    return text if source == "the text" else text.strip()


def check_is_no_file(text: str, remedy: str) -> None:
    """Refuse a text that names a file, whose content was meant.

    Args:
        text: A text from the command line.
        remedy: What to write instead; {} is the file's name.

    Raises:
        InvalidRequest: If there is such a file, or the text is one word with the ending of one.
    """
    try:
        exists = os.path.isfile(text)
    except ValueError:  # a NUL
        exists = False
    suffix = Path(text).suffix.lower()
    is_word = not any(map(str.isspace, text))
    if not exists and not (is_word and text != suffix and suffix in (*_TEXTS, *_SCRIPTS)):
        return
    what = "is a file" if exists else "looks like the name of a file, and there is none here"
    name = shlex.quote(text)
    instead = f"voicereel script {name}" if suffix in _SCRIPTS else remedy.format(name)
    raise InvalidRequest(
        f"the text {text!r} {what}. To speak what is in it: {instead}. To speak the name itself: "
        f"echo {name} | voicereel say -"
    )


def read_standard_input() -> bytes:
    """Everything up to the end of standard input.

    Raises:
        InvalidRequest: If it is closed.
    """
    if sys.stdin is None:
        raise InvalidRequest("standard input is closed, expected a text")
    if sys.stdin.isatty():
        console.print("reading standard input; end it with Ctrl-D")
    return sys.stdin.buffer.read(int(MAX_BYTES) + 1)  # `decoded` refuses more
