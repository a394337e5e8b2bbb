"""Two real servers behind nginx, behind a client, and behind the gateway: one is killed under load.

Nothing that was accepted and can be repeated is lost; what is said is what one server says alone.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from launch.server import Server
from support import nginx
from support.gateway import running
from support.raw import llama_metrics
from voicereel import Client, VoiceReelError, stream_script, synthesize_script
from voicereel.script.reel import joined

pytestmark = [pytest.mark.server, pytest.mark.slow]

TOLERANCE = 1e-4  # float32, the same codes decoded in windows of other shapes
REQUESTS, WORKERS = 24, 6
ASKED: Any = {"max_new_tokens": 12}


class Pair:
    """The session's server and a second one, which may be killed and started again."""

    def __init__(self, first: Server, repository: Path) -> None:
        self.first, self._repository = first, repository
        self.second = Server(repository)
        self.second.start()

    def kill(self) -> None:
        os.killpg(self.second.pid, signal.SIGKILL)

    def start_again(self) -> None:
        """Start the second server on the ports that it had."""
        ports = {f"{use}_port": port for use, port in self.second.ports.items()}
        self.second.stop()
        self.second = Server(self._repository, **ports)
        self.second.start()

    def ended(self) -> list[float]:
        """Requests that each server's LLaMA stage has answered."""
        counted = (llama_metrics(server) for server in (self.first, self.second))
        return [sum(v for n, v in found.items() if "requests_total" in n) for found in counted]


@pytest.fixture(scope="module")
def pair(server: Server, repository: Path) -> Iterator[Pair]:
    made = Pair(server, repository)
    yield made
    made.second.stop()


@pytest.fixture(scope="module")
def expected(server: Server) -> list[np.ndarray]:
    """What each request says, from one server alone."""
    with Client(server.grpc_url, timeout_s=60) as client:
        return [spoken(client, number) for number in range(REQUESTS)]


def spoken(client: Client, number: int) -> np.ndarray:
    return client.synthesize(f"Line {number}.", seed=number, **ASKED).waveform


def all_said(say: Callable[[int], np.ndarray], expected: list[np.ndarray], then: Callable) -> None:
    """Send all requests, do something after the first third, and compare every answer."""
    begun = threading.Semaphore(0)

    def one(number: int) -> np.ndarray:
        begun.release()
        return say(number)

    with ThreadPoolExecutor(WORKERS) as pool:
        found = pool.map(one, range(REQUESTS))
        for _ in range(REQUESTS // 3):
            begun.acquire()
        then()
        for number, audio in enumerate(found):
            np.testing.assert_allclose(audio, expected[number], atol=TOLERANCE, rtol=0)


@contextlib.contextmanager
def by_client(pair: Pair, folder: Path) -> Iterator[Callable[[int], np.ndarray]]:
    with Client(f"{pair.first.grpc_url},{pair.second.grpc_url}", timeout_s=60) as client:
        yield lambda number: spoken(client, number)


@contextlib.contextmanager
def by_nginx(pair: Pair, folder: Path) -> Iterator[Callable[[int], np.ndarray]]:
    servers = (pair.first, pair.second)
    addresses = [[s.grpc_url for s in servers], [s.http_url for s in servers]]
    with (
        nginx.balancing(folder, *addresses) as (grpc_url, http_url),
        Client(grpc_url, timeout_s=60) as one,
        Client(http_url, "http", timeout_s=60) as other,
    ):
        yield lambda number: spoken(other if number % 3 == 0 else one, number)


@contextlib.contextmanager
def by_gateway(pair: Pair, folder: Path) -> Iterator[Callable[[int], np.ndarray]]:
    with running(f"{pair.first.grpc_url},{pair.second.grpc_url}", folder) as gateway:

        def say(number: int) -> np.ndarray:
            text = f"Line {number}."
            answer = gateway.speak(
                input=text, voice="default", seed=number, response_format="wav", sample_rate=44100,
                stream=False, **ASKED,
            )  # fmt: skip
            assert answer.status_code == 200, answer.text
            (folder / f"{number}.wav").write_bytes(answer.content)
            return soundfile.read(folder / f"{number}.wav", dtype="float32")[0]

        yield say


WAYS = {"client": by_client, "nginx": by_nginx, "gateway": by_gateway}


@pytest.mark.parametrize("way", WAYS)
def test_one_of_two_servers_is_killed_under_load(
    pair: Pair, expected: list[np.ndarray], way: str, tmp_path: Path
) -> None:
    if way == "nginx" and (why := nginx.why_not()):
        pytest.skip(why)
    if not pair.second.running:
        pair.start_again()
    close = [np.round(e * 32767) / 32767 for e in expected] if way == "gateway" else expected
    with WAYS[way](pair, tmp_path) as say:
        before = pair.ended()
        all_said(say, close, lambda: None)
        assert (np.subtract(pair.ended(), before) >= REQUESTS // 4).all()  # both have spoken
        all_said(say, close, pair.kill)


def test_streams_that_had_begun_fail_within_a_second(pair: Pair, tmp_path: Path) -> None:
    if why := nginx.why_not():
        pytest.skip(why)
    pair.start_again()
    servers = (pair.first, pair.second)
    addresses = [[s.grpc_url for s in servers], [s.http_url for s in servers]]
    killed: list[float] = []

    def listened(client: Client) -> float:
        """Seconds after the kill at which the stream failed; 0: it did not."""
        try:
            for _ in client.stream("A long story. " * 8, max_new_tokens=1500, max_chunk_frames=8):
                begun.release()
        except VoiceReelError:
            return time.monotonic() - killed[0]
        return 0.0

    begun = threading.Semaphore(0)
    with (
        nginx.balancing(tmp_path, *addresses) as (url, _),
        Client(url, timeout_s=60) as one,
        Client([s.grpc_url for s in servers], timeout_s=60) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        found = [pool.submit(listened, client) for client in (one, other, one, other)]
        for _ in range(12):
            begun.acquire(timeout=20)
        killed.append(time.monotonic())
        pair.kill()
        failed = [each.result() for each in found]
    assert 1 <= sum(after > 0 for after in failed) < 4  # those of one server
    assert max(failed) < 1


SCRIPT = [
    {"speaker_id": "A", "text": f"Segment {number}.", "options": {"seed": number}}
    for number in range(60)
]


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_a_script_survives_a_kill_and_a_restart_of_its_only_server(pair: Pair, way: str) -> None:
    if not pair.second.running:
        pair.start_again()
    third, done = threading.Event(), 0

    def heard(client: Client, count: bool = False) -> np.ndarray:
        nonlocal done
        how: Any = {"max_new_tokens": 8, "first_chunk_frames": 2, "max_chunk_frames": 2}
        if way == "whole":
            told = (lambda number, _: number == 20 and third.set()) if count else None
            return synthesize_script(
                client, SCRIPT, {"A": None}, progress=told, **how
            ).audio.waveform
        pieces = []
        for piece in stream_script(client, SCRIPT, {"A": None}, **how):
            pieces.append(piece)
            if count and piece.segment == 20:
                third.set()
        return joined(pieces).audio.waveform

    with Client(pair.first.grpc_url, timeout_s=60) as client:
        undisturbed = heard(client)
    with Client(pair.second.grpc_url, timeout_s=60) as client, ThreadPoolExecutor(1) as pool:
        found = pool.submit(heard, client, True)
        assert third.wait(30)
        pair.kill()
        pair.start_again()
        np.testing.assert_allclose(found.result(60), undisturbed, atol=TOLERANCE, rtol=0)
