"""What the supervisor takes for a sign of life, with stand-ins for the real ones."""

import time

import pytest

from launch import watch as watching
from launch.run_folder import RunFolder
from support.supervised import FakeServer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("computes", "longest_s", "found"), [(True, 60, False), (True, 0.2, True), (False, 60, True)]
)
def test_who_computes_is_not_hung(
    folder: RunFolder, monkeypatch, computes: bool, longest_s: float, found: bool
) -> None:
    """A long recording is encoded in one step, in which nobody is answered."""
    for name, value in (("EVERY_S", 0.02), ("PATIENCE_S", 0.05), ("LONGEST_S", longest_s)):
        monkeypatch.setattr(watching, name, value)

    def hangs(*_: object) -> str:
        time.sleep(0.06)
        return "fish_encoder: no answer: timed out"

    monkeypatch.setattr(watching.probe, "knock", hangs)
    monkeypatch.setattr(watching.processes, "cpu_s", lambda _: time.monotonic() * computes)
    server = FakeServer(folder.path)
    server.start()
    with watching.Watch(server, None) as watch:  # type: ignore[arg-type]
        time.sleep(1)
        assert bool(watch.problem) == found
    server.stop()


@pytest.mark.parametrize("asked", [True, False], ids=["nobody", "somebody"])
def test_a_frame_is_asked_for_where_nobody_speaks(
    folder: RunFolder, monkeypatch, asked: bool
) -> None:
    for name, value in (("EVERY_S", 0.02), ("SPEAKS_S", 0.1)):
        monkeypatch.setattr(watching, name, value)
    spoken: list[float] = []
    monkeypatch.setattr(watching.probe, "knock", lambda *_: "")
    monkeypatch.setattr(watching.doors, "speak", lambda *_: spoken.append(0) or "fish_tts: planted")
    server = FakeServer(folder.path)
    server.start()
    (folder.path / "fish_tts").mkdir()
    monkeypatch.setattr(
        server,
        "metrics",
        lambda: "" if asked else f"fish_llama_frames_total {time.monotonic()}",
    )
    with watching.Watch(server, None) as watch:  # type: ignore[arg-type]
        time.sleep(0.6)
        assert bool(spoken) == asked
        assert watch.problem == ("fish_tts: planted" if asked else "")
    server.stop()
