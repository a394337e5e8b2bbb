"""What keeps this machine from speaking, each with how to mend it: `voicereel doctor`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from typing_extensions import TypedDict

from voicereel.client import Client
from voicereel.errors import ConfigurationError, InvalidRequest, VoiceReelError
from voicereel.library import VoiceLibrary
from voicereel.project import project_folder
from voicereel.settings import Settings, read_settings, suspicious_variables
from voicereel.voice import VoiceFeatures


class Finding(TypedDict):
    """As launch.doctor of voicereel-triton prints them.

    Attributes:
        check: Its name.
        status: "ok"; "warning": it works, or may; "broken": it does not.
        found: In one line.
        mend: What to do, if anything.
    """

    check: str
    status: Literal["ok", "warning", "broken"]
    found: str
    mend: str


def examine(url: str | None, server_arguments: Sequence[str]) -> Iterator[Finding]:
    """Check the client, and the server where this machine has the whole project.

    Args:
        url: Of a server that must answer; None: that of the settings, which may be down unless
            VOICEREEL_URL names it.
        server_arguments: Of `python -m launch.doctor`.
    """
    yield from _settings()
    try:
        settings = read_settings()
    except ConfigurationError:
        settings = None  # said above
    try:
        root = project_folder("serving")
    except ConfigurationError:
        yield _finding("project", "ok", "only the client is installed: speaks through a server")
        here: list[Finding] = []
    else:
        here = _server_side(str(root), server_arguments)
    yield from here
    url = url or (settings.url if settings and "url" in settings.model_fields_set else None)
    yield _answers(url or "127.0.0.1:8001", must=bool(url) or not here)
    if settings:
        made_of = [f["found"] for f in here if f["check"] == "checkpoint" and f["status"] == "ok"]
        yield from _voices(settings, made_of[0] if made_of else None)


def _finding(
    check: str, status: Literal["ok", "warning", "broken"], found: str, mend: str = ""
) -> Finding:
    return Finding(check=check, status=status, found=found, mend=mend)


def _settings() -> Iterator[Finding]:
    try:
        given = read_settings().model_fields_set
        yield _finding("settings", "ok", f"{len(given)} variables set, the others are as default")
    except ConfigurationError as error:
        yield _finding("settings", "broken", str(error), "set or unset these variables")
    for suspicion in suspicious_variables():
        yield _finding("settings", "warning", suspicion, "rename or unset it")


def _server_side(root: str, arguments: Sequence[str]) -> list[Finding]:
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "launch.doctor", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        found = f"its checks do not run in {sys.executable}: {last}"
        return [_finding("server", "broken", found, "make setup, then .venv/bin/voicereel doctor")]
    return json.loads(done.stdout)


def _answers(url: str, must: bool) -> Finding:
    try:
        with Client(url) as client:
            missing = [name for name, ready in client.health().items() if not ready]
    except VoiceReelError:
        start = "start it: voicereel serve (or make serve); another one: VOICEREEL_URL=HOST:PORT"
        return _finding("service", "broken" if must else "warning", f"nobody at {url}", start)
    if missing:
        found = f"{url} answers, but not ready: {', '.join(missing)}"
        return _finding("service", "broken", found, "wait, or see the server's log")
    return _finding("service", "ok", f"{url} is ready")


def _voices(settings: Settings, checkpoint_id: str | None) -> Iterator[Finding]:
    library = VoiceLibrary(settings.voices)
    names, fine = library.names(), 0
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
            fine += 1
    yield _finding("voices", "ok", f"{fine} of {len(names)} usable in {settings.voices}")
