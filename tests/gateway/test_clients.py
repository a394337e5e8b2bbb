"""Official packages of other makers, each in an environment of its own, against the real server.

    python -m venv build/clients
    build/clients/bin/pip install -r tests/gateway/clients.txt

Skipped where that has not been done, since they bring hundreds of MB. Home Assistant's bridge needs
Python 3.12: build/wyoming, with wyoming-openai 0.8.0 and wyoming 1.10.2.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.server import Server
from support.gateway import Gateway, running
from support.launched import wait_until

PROJECT = Path(__file__).resolve().parents[2]
CLIENTS = Path(os.environ.get("VOICEREEL_CLIENTS", PROJECT / "build"))
PYTHON, BRIDGE = (CLIENTS / name / "bin" / "python" for name in ("clients", "wyoming"))
pytestmark = pytest.mark.server

FISH = """
from fishaudio import FishAudio
from fishaudio.exceptions import NotFoundError
from fishaudio.types import TTSConfig
config = TTSConfig(format="wav", max_new_tokens=30)
with FishAudio(api_key="any", base_url=url) as client:
    audio = client.tts.convert(text="Hello there.", config=config)
    assert audio[:4] == b"RIFF" and len(audio) > 10_000, len(audio)
    texts = iter(["This is the first ", "sentence. And here is ", "the second one."])
    live = b"".join(client.tts.stream_websocket(texts, config=config))
    assert live[:4] == b"RIFF" and live.count(b"RIFF") == 1
    try:
        client.tts.convert(text="Hello.", reference_id="nobody")
    except NotFoundError as error:
        assert "no voice 'nobody'" in str(error)
    else:
        raise AssertionError("an unknown voice was spoken")
"""
FISH_SESSION = """
from fish_audio_sdk import HttpCodeErr, Session, TTSRequest, WebSocketSession
session = Session("any", base_url=url)
assert len(b"".join(session.tts(TTSRequest(text="Hello there.")))) > 1000
try:
    b"".join(session.tts(TTSRequest(text="Hello.", reference_id="nobody")))
except HttpCodeErr as error:
    assert error.status == 404
with WebSocketSession("any", base_url=url) as live:
    assert len(b"".join(live.tts(TTSRequest(text=""), iter(["Hello there."])))) > 1000
"""
LIVEKIT = """
import asyncio
from livekit.plugins import openai

async def main(model):
    tts = openai.TTS(model=model, voice="ash", base_url=url + "/v1", api_key="any")
    seconds = 0.0
    async with tts.synthesize("Hello there.") as stream:
        async for event in stream:
            seconds += event.frame.duration
    assert seconds > 0.1, seconds
    await tts.aclose()

asyncio.run(main("gpt-4o-mini-tts"))  # events
asyncio.run(main("tts-1"))  # bytes
"""
PIPECAT = """
import asyncio
from pipecat.frames.frames import ErrorFrame, TTSAudioRawFrame
from pipecat.services.openai.tts import OpenAITTSService

async def main():
    service = OpenAITTSService(
        api_key="any", base_url=url + "/v1", settings=OpenAITTSService.Settings(voice="nova")
    )
    service._sample_rate = 24_000  # a pipeline's start frame sets it
    audio, errors = 0, []
    async for frame in service.run_tts("Hello there.", "1"):
        if isinstance(frame, TTSAudioRawFrame):
            audio += len(frame.audio)
        elif isinstance(frame, ErrorFrame):
            errors.append(frame.error)
    assert audio > 4800 and not errors, (audio, errors)

asyncio.run(main())
"""


WYOMING = """
import asyncio
import sys
from wyoming.audio import AudioChunk
from wyoming.client import AsyncTcpClient
from wyoming.tts import Synthesize

async def main():
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Synthesize(text="Hello there.").event())
        audio = 0
        while (event := await asyncio.wait_for(client.read_event(), 60)).type != "audio-stop":
            if AudioChunk.is_type(event.type):
                audio += len(AudioChunk.from_event(event).audio)
    assert audio > 4800, audio

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def real(server: Server, voices: Path) -> Iterator[Gateway]:
    with running(server.grpc_url, voices) as gateway:
        yield gateway


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="build/clients does not exist: see the head")
@pytest.mark.parametrize(
    "code", [FISH, FISH_SESSION, LIVEKIT, PIPECAT],
    ids=["fishaudio", "fish_audio_sdk", "livekit", "pipecat"],
)  # fmt: skip
def test_the_package_is_heard(real: Gateway, code: str) -> None:
    run(PYTHON, f"url = {real.url!r}\n{code}")


@pytest.mark.slow
@pytest.mark.skipif(not BRIDGE.exists(), reason="build/wyoming does not exist: see the head")
def test_home_assistants_bridge_is_heard(real: Gateway) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [BRIDGE, "-m", "wyoming_openai", "--uri", f"tcp://127.0.0.1:{port}", "--languages",
               "en", "--tts-openai-url", f"{real.url}/v1", "--tts-openai-key", "any",
               "--tts-models", "tts-1"]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=no_proxies(), **quiet) as bridge:
        try:
            wait_until(lambda: listens(port), 30)
            run(BRIDGE, f"port = {port}\n{WYOMING}")
        finally:
            bridge.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def no_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def run(python: Path, code: str) -> None:
    done = subprocess.run(
        [python, "-c", code], env=no_proxies(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
