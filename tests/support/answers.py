"""What several fake servers answer, and what came of it."""

from collections.abc import Iterator

import grpc
import numpy as np

from support.fake_server import FakeServer, Refusal, chunk, whole
from voicereel import Client

AWAY = "127.0.0.1:1"  # where no server is


def saying(value: float):
    return lambda _: iter([chunk(0, is_last=True) | whole(np.full(64, value))])


def refusing(message: str, status: grpc.StatusCode = grpc.StatusCode.INTERNAL):
    def answer(_: dict) -> Iterator[dict]:
        raise Refusal(status, message)
        yield

    return answer


def said(client: Client) -> float:
    return client.synthesize("Hello.").waveform[0]


def asked(fake: FakeServer) -> int:
    return sum(request.model_name.startswith("fish_tts") for request in fake.requests)
