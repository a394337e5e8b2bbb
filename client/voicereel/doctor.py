"""What keeps this machine from speaking, and how to fix it: the checks of `voicereel doctor`."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from typing_extensions import TypedDict

from voicereel.client import DEFAULT_URL, Client
from voicereel.errors import ConfigurationError, InvalidRequest, VoiceReelError
from voicereel.library import VoiceLibrary
from voicereel.project import project_environment, project_folder
from voicereel.settings import Settings, read_settings, suspicious_variables
from voicereel.voice import VoiceFeatures

Status: TypeAlias = Literal["ok", "warning", "broken"]


class Finding(TypedDict):
    """The result of one check; `python -m launch.doctor` prints the server's as JSON of this shape.

    Attributes:
        check: Name of the check.
        status: "ok"; "warning": it works, or may; "broken": it does not.
        found: What was found, in one line.
        fix: What to do, or "".
    """

    check: str
    status: Status
    found: str
    fix: str


def examine(url: str | None, server_arguments: Sequence[str]) -> Iterator[Finding]:
    """Check the client, and the server if this machine has a checkout of the project.

    Args:
        url: HOST:PORT of a server that must answer. None is the server of the settings, which
            must answer only if VOICEREEL_URL names it or this machine cannot serve.
        server_arguments: Arguments of `python -m launch.doctor`.
    """
    yield from _settings()
    try:
        settings = read_settings()
    except ConfigurationError:
        settings = None  # _settings() has reported it
    try:
        root = project_folder("serving")
    except ConfigurationError:
        yield _finding("project", "ok", "only the client is installed: speaks through a server")
        here: list[Finding] = []
    else:
        here = _server_side(root, server_arguments)
    yield from here
    url = url or (settings.url if settings and "url" in settings.model_fields_set else None)
    yield _service(url or DEFAULT_URL, must_answer=bool(url) or not here)
    if settings:
        ids = [f["found"] for f in here if f["check"] == "checkpoint" and f["status"] == "ok"]
        yield from _voices(settings, ids[0] if ids else None)


def _finding(check: str, status: Status, found: str, fix: str = "") -> Finding:
    return Finding(check=check, status=status, found=found, fix=fix)


def _settings() -> Iterator[Finding]:
    try:
        given = read_settings().model_fields_set
        yield _finding("settings", "ok", f"{len(given)} variables set, the others are as default")
    except ConfigurationError as error:
        yield _finding("settings", "broken", str(error), "set or unset these variables")
    for suspicion in suspicious_variables():
        yield _finding("settings", "warning", suspicion, "rename or unset it")


def _server_side(root: Path, arguments: Sequence[str]) -> list[Finding]:
    """The findings of the server's own checks, which run in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "launch.doctor", *arguments],
        env=project_environment(root),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        found = f"its checks do not run in {sys.executable}: {last}"
        return [_finding("server", "broken", found, "make setup, then .venv/bin/voicereel doctor")]
    return json.loads(done.stdout)


def _service(url: str, must_answer: bool) -> Finding:
    try:
        with Client(url) as client:
            missing = [name for name, ready in client.health().items() if not ready]
    except VoiceReelError:
        status: Status = "broken" if must_answer else "warning"
        start = "start it: voicereel serve (or make serve); another one: VOICEREEL_URL=HOST:PORT"
        return _finding("service", status, f"no answer from {url}", start)
    if missing:
        found = f"{url} answers, but not ready: {', '.join(missing)}"
        return _finding("service", "broken", found, "wait, or see the server's log")
    return _finding("service", "ok", f"{url} is ready")


def _voices(settings: Settings, checkpoint_id: str | None) -> Iterator[Finding]:
    """Whether each voice that is kept can be read, and by the server of this machine if known."""
    library = VoiceLibrary(settings.voices)
    names, usable = library.names(), 0
    for name in names:
        path = library.path_of(name)
        again = f"voicereel voice add {name!r} RECORDING --text WORDS --force"
        try:
            made_by = VoiceFeatures.load(path).checkpoint_id
        except InvalidRequest as error:
            yield _finding("voices", "broken", str(error), again)
            continue
        if checkpoint_id and made_by != checkpoint_id:
            found = f"{name} was made by checkpoint {made_by}, the server has {checkpoint_id}"
            yield _finding("voices", "broken", found, again)
        else:
            usable += 1
    yield _finding("voices", "ok", f"{usable} of {len(names)} usable in {settings.voices}")
