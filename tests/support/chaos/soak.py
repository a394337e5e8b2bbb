"""Mixed load for minutes: what each process holds, and whether answers are as in a solo run."""

import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.load.soak import slope
from support.chaos.world import ASKED, Row, World
from voicereel import InvalidRequest, VoiceReelError

_EVERY_S = 2  # between two looks at the processes
_SETTLED = 1 / 3  # of the time, in which allocators and caches fill up
_PARTS = 10  # of the rest: 12 s each in a soak of three minutes
_TEXTS = tuple(f"Sentence number {number}." for number in range(12))
# What a process may grow in a minute and still count as flat: the noise of allocators, seen in runs
# without load.
_NOISE = {"MB": 2.0, "descriptors": 2.0, "threads": 1.0}


def held(world: World) -> dict[str, dict[str, float]]:
    """MB, descriptors and threads by process, and the MB of /dev/shm."""
    pids = {"tritonserver": world.server, "proxy": world.proxy, "serve": world.process.pid}
    found: dict[str, dict[str, float]] = {}
    for name, pid in (pids | world.stubs()).items():
        folder = Path(f"/proc/{pid}")
        try:
            lines = (folder / "status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines)
            found[name] = {
                "MB": int(status["VmRSS"].split()[0]) / 1e3,
                "threads": int(status["Threads"]),
                "descriptors": len(list((folder / "fd").iterdir())),
            }
        except (OSError, KeyError):
            continue
    regions = Path("/dev/shm").glob("voicereel_*")
    found["/dev/shm"] = {"MB": sum(region.stat().st_blocks * 512 for region in regions) / 1e6}
    return found


def slopes(samples: list[tuple[float, dict[str, dict[str, float]]]]) -> dict[str, float]:
    """Growth a minute by "process: what", all along the time after the first third.

    That time is cut into parts, so that a single jump of an allocator is not taken for a leak, and
    a leak that comes in small jumps is still seen in each part.
    """
    settled = samples[int(len(samples) * _SETTLED) :]
    a_part = (settled[-1][0] - settled[0][0]) / 60 / _PARTS
    grown = {}
    for name in settled[0][1]:
        for what in settled[0][1][name]:
            line = [h[name][what] for _, h in settled if what in h.get(name, {})]
            if len(line) >= _PARTS:
                means = [float(part.mean()) for part in np.array_split(line, _PARTS)]
                grown[f"{name}: {what}"] = max(slope(means), _beside_a_jump(means)) / a_part
    return grown


def _beside_a_jump(means: list[float]) -> float:
    """Growth from one to the next without the largest jump, which two parts may share.

    It finds jumps that come again and again, but in less than every other part.
    """
    jump = max(b - a for a, b in zip(means, means[2:], strict=False))
    return (means[-1] - means[0] - jump) / (len(means) - 3)


class _Load:
    """Callers of every kind, until they are told to end."""

    def __init__(self, world: World) -> None:
        self.world, self.told, self.ended = world, Counter(), threading.Event()
        self.wrong: list[str] = []
        with world.client(timeout_s=60) as client:
            self.solo = {
                text: client.synthesize(text, max_new_tokens=12, **ASKED).waveform
                for text in _TEXTS
            }

    def run(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self.ended.is_set():
            kind = rng.choice(("unary", "stream", "leaves", "bad", "voice"))
            try:
                with self.world.client(timeout_s=60) as client:
                    self.told[kind, getattr(self, f"_{kind}")(client, rng)] += 1
            except VoiceReelError as error:
                self.told[kind, type(error).__name__] += 1
            except Exception as error:  # no answer to a caller
                self.wrong.append(f"{kind}: {error!r}")

    def _unary(self, client, rng: random.Random) -> str:
        text = rng.choice(_TEXTS)
        return self._same(text, client.synthesize(text, max_new_tokens=12, **ASKED).waveform)

    def _stream(self, client, rng: random.Random) -> str:
        text = rng.choice(_TEXTS)
        parts = [c.waveform for c in client.stream(text, max_new_tokens=12, **ASKED)]
        return self._same(text, np.concatenate(parts))

    def _same(self, text: str, heard: np.ndarray) -> str:
        solo = self.solo[text]
        if heard.shape == solo.shape and np.allclose(heard, solo, atol=1e-4):
            return "as alone"
        self.wrong.append(f"{text}: {heard.shape} is not {solo.shape} of its solo run")
        return "other audio"

    def _leaves(self, client, rng: random.Random) -> str:
        for _ in client.stream("A story that nobody hears to its end.", max_new_tokens=60, **ASKED):
            break
        return "left"

    def _bad(self, client, rng: random.Random) -> str:
        try:
            client.synthesize(rng.choice(("", " ", "\x00", "!" * 20_000)))
        except (InvalidRequest, ValueError):
            return "refused"
        return "spoken"

    def _voice(self, client, rng: random.Random) -> str:
        noise = np.random.default_rng(rng.randrange(2**30)).normal(0, 0.1, 44_100)
        with tempfile.NamedTemporaryFile(suffix=".wav") as recording:
            soundfile.write(recording.name, noise, 44_100)
            client.encode_voice(recording.name, "Some words.")
        return "encoded"


def soak(world: World, minutes: float, picture: Path | None, callers: int = 4) -> Row:
    """Mixed load; lost are answers that are not those of their solo runs, and what grows."""
    row = Row(f"soak of {minutes:g} minutes, {callers} callers")
    load, samples, begin = _Load(world), [], time.monotonic()
    threads = [threading.Thread(target=load.run, args=(n,), daemon=True) for n in range(callers)]
    for thread in threads:
        thread.start()
    while (now := time.monotonic() - begin) < minutes * 60:
        samples.append((now, held(world)))
        time.sleep(_EVERY_S)
    load.ended.set()
    for thread in threads:
        thread.join(60)
    grown = slopes(samples)
    # In less than three minutes the settling itself is what is seen.
    growing = {n: s for n, s in grown.items() if s > _NOISE[n.rpartition(": ")[2]]}
    row.tries = sum(load.told.values()) + len(load.wrong)
    row.lost = len(load.wrong) + (len(growing) if minutes >= 3 else 0)
    row.notes += [", ".join(f"{k} {how}: {n}" for (k, how), n in sorted(load.told.items()))]
    row.notes += load.wrong[:3]
    steepest = sorted(grown.items(), key=lambda item: -item[1])[:3]
    row.notes.append("steepest a minute: " + ", ".join(f"{n} {s:+.2f}" for n, s in steepest))
    if picture is not None:
        _plot(samples, picture)
    return row


def _plot(samples: list[tuple[float, dict[str, dict[str, float]]]], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(9, 9), sharex=True)
    for axis, what in zip(axes, ("MB", "descriptors", "threads"), strict=True):
        for name in samples[-1][1]:
            line = [(t / 60, h[name][what]) for t, h in samples if what in h.get(name, {})]
            if line:
                axis.plot(*zip(*line, strict=True), label=name, linewidth=1)
        axis.set_ylabel(what)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=6, ncol=3)
    axes[-1].set_xlabel("minutes of mixed load")
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)
    plt.close(figure)
