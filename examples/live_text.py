"""Speech while a language model still writes: its tokens go in, sentences come out.

Start a server and a gateway first: make serve, make gateway. Needs: pip install websockets.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator

import websockets

URL = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/v1/audio/speech/stream"
ANSWER = "Good morning, Alice. Let us begin. The train to Paris leaves at seven in the morning."


async def tokens() -> AsyncIterator[str]:
    """What a language model's stream would give, such as `delta.content` of a chat completion."""
    for word in ANSWER.split(" "):
        await asyncio.sleep(0.05)
        yield f"{word} "


async def write(socket: websockets.ClientConnection) -> None:
    """Send the tokens as they come."""
    async for token in tokens():
        await socket.send(json.dumps({"type": "input.text", "text": token}))
    await socket.send(json.dumps({"type": "session.close"}))  # speaks the rest first


async def main() -> None:
    """Write and listen at the same time."""
    begin, audio = time.perf_counter(), bytearray()
    async with websockets.connect(URL, proxy=None) as socket:
        config = {"type": "session.config", "voice": "default", "seed": 7}
        await socket.send(json.dumps(config))
        writing = asyncio.create_task(write(socket))
        async for message in socket:
            if isinstance(message, bytes):
                audio += message  # 24 kHz, 16 bit, mono: play it
            elif (event := json.loads(message))["type"] == "audio.start":
                print(f"{time.perf_counter() - begin:.2f} s: {event['sentence_text']}")
            elif event["type"] == "error":
                raise SystemExit(event["error"]["message"])
        await writing
    print(f"{len(audio) / 48_000:.2f} s of audio")


asyncio.run(main())
