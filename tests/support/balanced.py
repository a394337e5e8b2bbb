"""The ways to speak through several servers: the client, nginx and the gateway."""

import contextlib
import io
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soundfile

from support import nginx
from support.gateway import Gateway, running
from voicereel import Client

# The same codes decoded in windows of other shapes, and the rounding of a WAV file.
TOLERANCE = 1e-4
ASKED: Any = {"max_new_tokens": 12}
Say: TypeAlias = Callable[[int], np.ndarray]


def spoken(client: Client, number: int) -> np.ndarray:
    """A line, in one answer."""
    return client.synthesize(f"Line {number}.", seed=number, **ASKED).waveform


def said(say: Say, expected: np.ndarray, number: int) -> None:
    """Say one line, and compare it with what one server says alone, to 16 bits."""
    np.testing.assert_allclose(say(number), expected, atol=TOLERANCE, rtol=0)


def _streamed(client: Client, number: int) -> np.ndarray:
    chunks = list(client.stream(f"Line {number}.", seed=number, **ASKED))
    assert chunks[-1].is_last
    return np.concatenate([chunk.waveform for chunk in chunks])


def _by_gateway(gateway: Gateway, number: int) -> np.ndarray:
    answer = gateway.speak(
        input=f"Line {number}.", voice="default", seed=number, response_format="wav",
        sample_rate=44100, stream=False, **ASKED,
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    return soundfile.read(io.BytesIO(answer.content), dtype="float32")[0]


@contextlib.contextmanager
def ways(
    grpc_urls: Sequence[str], http_urls: Sequence[str], folder: Path
) -> Iterator[tuple[dict[str, Say], list[Client]]]:
    """How to speak through all servers, by name; and the clients that can stream."""
    with contextlib.ExitStack() as stack:

        def opened(*how: Any) -> Client:
            return stack.enter_context(Client(*how, timeout_s=60))

        clients = {
            "client": opened(list(grpc_urls)),
            "client, HTTP": opened(list(http_urls), "http"),
        }
        if not nginx.why_not():
            grpc_url, http_url = stack.enter_context(nginx.balancing(folder, grpc_urls, http_urls))
            clients |= {"nginx": opened(grpc_url), "nginx, HTTP": opened(http_url, "http")}
        gateway = stack.enter_context(running(",".join(grpc_urls), folder))
        found: dict[str, Say] = {name: partial(spoken, each) for name, each in clients.items()}
        found["gateway"] = partial(_by_gateway, gateway)
        yield found, [each for name, each in clients.items() if "HTTP" not in name]


class Callers:
    """One caller of each way, a streaming one for each client that can, while the context lasts.

    Each speaks line after line, and compares it with what is expected.

    Attributes:
        spoken: Lines by way.
        lost: What went wrong instead.
    """

    def __init__(
        self, says: dict[str, Say], streamers: Sequence[Client], expected: Sequence[np.ndarray]
    ) -> None:
        self._expected, self._ended = expected, threading.Event()
        self.spoken, self.lost = Counter[str](), list[str]()
        streams = {f"stream {n}": partial(_streamed, each) for n, each in enumerate(streamers)}
        self._threads = [
            threading.Thread(target=self._speak, args=way) for way in (says | streams).items()
        ]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _speak(self, way: str, say: Say) -> None:
        for number in itertools.cycle(range(len(self._expected))):
            if self._ended.is_set():
                return
            try:
                said(say, self._expected[number], number)
            except Exception as problem:  # whatever it is, this line is lost
                self.lost.append(f"{way}: {type(problem).__name__}: {str(problem)[:300]}")
            self.spoken[way] += 1
