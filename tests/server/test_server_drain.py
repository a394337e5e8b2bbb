"""`make serve` is stopped while requests run: they end whole, and new ones are refused."""

import re
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from launch.server import Server
from support.balanced import Callers, spoken, ways
from support.chaos.world import slow_copy
from support.launched import alive, ready, serve, wait_until
from support.manifest_links import queries
from support.manifests import as_written, of_component, rendered
from voicereel import Client, ServerUnavailable

pytestmark = [pytest.mark.server, pytest.mark.slow]
FRAMES = 80
NOT_READY = 503  # in the proxy's words; Triton's own are 400
TEXT = "A long story about everything."  # with these options longer than FRAMES


@pytest.fixture(scope="module")
def slow_repository(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, spoken at about the speed of a listener."""
    return slow_copy(repository, tmp_path_factory.mktemp("slow") / "repository")


def unknown_to_prometheus(facts: dict[str, str]) -> set[str]:
    """Metrics that autoscalers ask for, and a pod's port `metrics` has not."""
    with urllib.request.urlopen(facts["metrics"], timeout=5) as answer:
        scraped = set(re.findall(r"^(\w+)[{ ]", answer.read().decode(), re.MULTILINE))
    written = [thing for _, objects in as_written() for thing in objects if "kind" in thing]
    asked = {n for query in queries(written) for n in re.findall(r"\bfish_llama_\w+", query)}
    assert len(asked) == 3
    return asked - scraped


class Speaking:
    """Requests in flight at a server, over each way that there is."""

    def __init__(self, facts: dict[str, str], *ways: str) -> None:
        self.facts = facts
        self.pool = ThreadPoolExecutor(len(ways))
        self.begun = threading.Semaphore(0)
        self.answers: list[Future[float]] = [self.pool.submit(self._speak, way) for way in ways]
        for _ in ways:
            assert self.begun.acquire(timeout=30)

    def _speak(self, way: str) -> float:
        """Seconds of audio that arrived."""
        url = self.facts["http" if way == "http" else "grpc"]
        asked = {"seed": 5, "temperature": 2.0, "top_p": 1.0, "repetition_penalty": 0.5}
        with Client(url, "http" if way == "http" else "grpc", timeout_s=60) as client:
            if way == "stream":
                chunks = client.stream(TEXT, max_new_tokens=FRAMES, **asked)
                heard = len(next(chunks).waveform)
                self.begun.release()
                return (heard + sum(len(chunk.waveform) for chunk in chunks)) / 44_100
            threading.Timer(1, self.begun.release).start()
            return client.synthesize(TEXT, max_new_tokens=FRAMES, **asked).duration_s

    def durations(self) -> set[float]:
        return {answer.result(60) for answer in self.answers}


def status(facts: dict[str, str], path: str = "/v2/health/ready") -> int:
    try:
        with urllib.request.urlopen(f"http://{facts['http']}{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


POD = of_component(rendered("overlays/cpu"), "server").container
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture
def served(slow_repository: Path) -> Iterator[tuple[subprocess.Popen, dict[str, str]]]:
    """As a pod of deploy/kubernetes starts it, at other ports."""
    module, *arguments = POD["args"]
    assert module == "launch.serve" and "--address=0.0.0.0" in arguments
    with serve(*arguments, f"--repository={slow_repository}") as process:
        facts = ready(process)
        # Its log comes there as well, which `kubectl logs` shows.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, facts


def probed(facts: dict[str, str]) -> list[bool]:
    """Whether the pod starts, takes requests, and lives, as its node finds out."""
    asked = [POD[each]["httpGet"] for each in PROBES]
    assert {each["port"] for each in asked} == {"http"}
    return [status(facts, each["path"]) == 200 for each in asked]


def raw(url: str, sent: str) -> str:
    """The answer to what no HTTP library would send."""
    host, _, port = url.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(sent.encode())
        try:
            return connection.recv(4096).decode()
        except OSError:  # hangs up, or waits for more
            return ""


def closed_to_others(facts: dict[str, str]) -> None:
    """Models can be unloaded in this server, but by itself only."""
    command = Path(f"/proc/{facts['pid']}/cmdline").read_text().split("\0")
    closed = "--http-restricted-api=model-repository:"
    (value,) = (a.rpartition("=")[2] for a in command if a.startswith(closed))
    for path in ("models/fish_tts/unload", "models/fish_tts/load", "index"):
        url = f"/v2/repository/{path}"
        for header in ("X: x", f"Closed: {value}", "Closed: " + value.replace("\n", "\n ")):
            sent = f"POST {url} HTTP/1.1\nHost: x\n{header}\nContent-Length: 2\n\n{{}}"
            for line_end in ("\r\n", "\n"):
                assert " 200 " not in raw(facts["http"], sent.replace("\n", line_end))
    assert status(facts, "/v2/models/fish_tts/ready") == 200


@pytest.fixture
def callers(served, server: Server, tmp_path: Path) -> Iterator[Callers]:
    """Callers by every way to balance two servers: this one, and another that goes on."""
    _, facts = served
    with Client(server.grpc_url) as client:
        expected = [spoken(client, number) for number in range(4)]
    urls = [facts["grpc"], server.grpc_url], [facts["http"], server.http_url]
    with ways(*urls, tmp_path) as (says, streamers), Callers(says, streamers, expected) as found:
        yield found


def test_what_runs_ends_whole(served, callers: Callers) -> None:
    """And the callers of several servers notice nothing."""
    process, facts = served
    closed_to_others(facts)
    assert probed(facts) == [True, True, True]
    speaking = Speaking(facts, "stream", "stream", "unary", "http")
    assert unknown_to_prometheus(facts) == set()
    process.terminate()
    wait_until(lambda: status(facts) == NOT_READY, seconds=2)
    assert status(facts, "/v2/models/fish_tts/ready") == NOT_READY
    assert probed(facts) == [False, False, True]  # a restart would cost its streams
    with Client(facts["grpc"], return_s=0) as client:
        assert not client.ready()
        for call in (lambda: client.synthesize("New."), lambda: next(client.stream("New."))):
            with pytest.raises(ServerUnavailable):
                call()
    assert not any(answer.done() for answer in speaking.answers)
    assert speaking.durations() == {FRAMES * 2048 / 44_100}
    assert (process.wait(60), process.stdout.read()) == (0, "")
    assert not alive(int(facts["pid"]))
    before = callers.spoken.copy()
    wait_until(lambda: all(callers.spoken[way] > before[way] for way in callers.spoken))
    assert callers.lost == [] and len(callers.spoken) >= 4


def test_no_orphan_when_the_launcher_is_killed_in_mid_speech(served) -> None:
    process, facts = served
    Speaking(facts, "stream")
    process.kill()
    wait_until(lambda: not alive(int(facts["pid"])), seconds=60)
