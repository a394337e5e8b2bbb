"""A load that shows in every panel: voices, company, waiting, callers who leave, mistakes."""

import base64
import http.client
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.demo.run import SCRIPT, VOICES, WORDS
from voicereel import Client

STAIRS = (1, 2, 4, 8, 24)  # callers at a time; the last are more than a CPU's 16 slots
_LEAVES = 9  # each ninth request leaves after its first audio
_ERRS = 7  # each seventh is a mistake


def make(client: Client, address: str, seconds: float) -> dict[str, int]:
    """Load a gateway.

    Args:
        client: Encodes a recording with every step; the gateway keeps the codes of its own.
        address: HOST:PORT of the gateway.
        seconds: For the whole load; each step of `STAIRS` has its share.

    Returns:
        Answers by their status, and callers who left.
    """
    told: dict[str, int] = {}
    lock, turn = threading.Lock(), iter(range(10**9))

    def caller(until: float) -> None:
        while time.monotonic() < until:
            with lock:
                number = next(turn)
            outcome = _ask(address, number)
            with lock:
                told[outcome] = told.get(outcome, 0) + 1

    for callers in STAIRS:
        client.encode_voice(VOICES / "alice.flac", WORDS["Alice"])
        until = time.monotonic() + seconds / len(STAIRS)
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(caller, [until] * callers))
    return told


def _ask(address: str, number: int) -> str:
    speaker, text = SCRIPT[number % len(SCRIPT)]
    body = _body(speaker, text, number)
    if number % _ERRS == _ERRS - 1:
        body = {**body, "voice": "nobody"}
    connection = http.client.HTTPConnection(address, timeout=300)
    try:
        connection.request("POST", "/v1/audio/speech", json.dumps(body))
        answer = connection.getresponse()
        if answer.status == http.client.OK and number % _LEAVES == _LEAVES - 1:
            answer.read(1)
            return "left"
        answer.read()
        return str(answer.status)
    finally:
        connection.close()


def _body(speaker: str, text: str, number: int) -> dict[str, Any]:
    """A request for speech in a recorded voice; formats take turns."""
    formats: Sequence[str] = ("pcm", "mp3", "opus")
    recording = base64.b64encode((VOICES / f"{speaker.lower()}.flac").read_bytes()).decode()
    return {
        "model": "tts-1", "input": text, "voice": "default", "seed": number,
        "references": [{"audio": recording, "text": WORDS[speaker]}],
        "response_format": formats[number % len(formats)], "max_new_tokens": 120,
    }  # fmt: skip
