"""WebSocket `/v1/tts/live`, in Fish Audio's protocol: msgpack in, one track out."""

import asyncio
import contextlib
import queue
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import msgpack
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.answers import Flow
from gateway.doors import caller_of
from gateway.errors import ApiError, api_error, invalid
from gateway.fields import checked_words
from gateway.fish import fish_ask, unpacked
from gateway.live import CONFIG_S, IDLE_S, MAX_WAITING
from gateway.sound import Piece, Track, encoded
from gateway.speech import MODEL, Ask
from gateway.utterances import Cutter
from voicereel import Caller


async def tts_live(socket: WebSocket) -> None:
    """One connection: start, then text and flush in any order, then stop."""
    await socket.accept()
    gateway, caller = socket.state.gateway, caller_of(socket)
    sending: asyncio.Task[None] | None = None
    reason = "stop"
    try:
        start = await _event(socket, CONFIG_S)
        if start["event"] != "start" or not isinstance(start.get("request"), dict):
            raise invalid("event", "must be start with a request, before any other")
        ask = fish_ask({"text": "", **start["request"]}, gateway.settings)
        speech = _Speech(gateway, ask, caller)
        speech.add(ask.text)
        sending = asyncio.create_task(speech.send(socket))
        while (event := await _event_while(sending, socket)) and event["event"] != "stop":
            speech.take(event)
        speech.stop()
        await sending
    except WebSocketDisconnect:
        return
    except Exception as error:
        refusal = api_error(error)
        gateway.metrics.refused(refusal.code or str(refusal.status))
        reason, message = "error", refusal.message
    else:
        message = ""
    finally:
        caller.leave()
        if sending:
            sending.cancel()
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        finish = {"event": "finish", "reason": reason, **({"message": message} if message else {})}
        await socket.send_bytes(_packed(finish))
        await socket.close()


class _Speech:
    """Text as it comes, spoken sentence by sentence into one track."""

    def __init__(self, gateway: Any, ask: Ask, caller: Caller) -> None:
        self._gateway, self._ask, self._caller = gateway, ask, caller
        self._cutter = Cutter("sentence", ask.language)
        self._sentences: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._said = 0

    def take(self, event: dict[str, Any]) -> None:
        """Do what a message says.

        Raises:
            ApiError: 422, if it is none.
        """
        if event["event"] == "text" and isinstance(event.get("text"), str):
            self.add(event["text"])
        elif event["event"] == "flush":
            self._say(self._cutter.end())
        else:
            raise invalid("event", f"is {event['event']!r}, expected text with a text, flush, stop")

    def add(self, text: str) -> None:
        """More text."""
        if text.strip():
            checked_words(text, "text")
        if len(self._cutter.rest) + len(text) > MAX_WAITING:
            raise ApiError(422, f"more than {MAX_WAITING} characters wait to be spoken", "text")
        self._say(self._cutter.add(text))

    def stop(self) -> None:
        """No more comes."""
        self._say(self._cutter.end())
        self._sentences.put(None)

    def _say(self, sentences: list[str]) -> None:
        for sentence in sentences:
            self._sentences.put(sentence)
            self._said += 1

    async def send(self, socket: WebSocket) -> None:
        """Send audio until the speech ends."""
        track = Track(self._ask.shape)
        account = self._gateway.account(self._caller, "fish", MODEL, self._ask.shape.format)
        flow = Flow(self._gateway.streams.open(self._caller, lambda: self._pieces(track)), track,
                    account)  # fmt: skip
        error: BaseException | None = None
        try:
            while piece := await flow.next():
                await socket.send_bytes(_packed({"event": "audio", "audio": piece.data}))
        except BaseException as problem:
            error = problem
            is_empty = isinstance(problem, ApiError) and problem.code == "no_speech"
            if not is_empty or self._said:
                raise
        finally:
            flow.end(error)

    def _pieces(self, track: Track) -> Generator[Piece]:
        """Speak in a thread: one sentence after the other."""
        forget = self._caller.on_leave(lambda: self._sentences.put(None))
        try:
            voice = self._gateway.voices.find(self._ask.voice)
            voice = self._gateway.voices.with_references(voice, self._ask.references)

            def sounds() -> Generator[Any]:
                while (sentence := self._sentences.get()) is not None:
                    ask = replace(self._ask, text=sentence)
                    yield from self._gateway.servers.stream(
                        lambda client, ask=ask: ask.sounds(client, voice)
                    )

            yield from encoded(sounds(), track)
        finally:
            forget()


def _packed(message: dict[str, Any]) -> bytes:
    return msgpack.packb(message) or b""


async def _event_while(sending: "asyncio.Task[None]", socket: WebSocket) -> dict[str, Any] | None:
    """The next message; None if the sending has ended before it, whose error is raised."""
    receiving = asyncio.create_task(_event(socket, IDLE_S))
    try:
        await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not receiving.done():
            await sending
            return None
        return receiving.result()
    finally:
        receiving.cancel()


async def _event(socket: WebSocket, patience_s: float) -> dict[str, Any]:
    try:
        received = await asyncio.wait_for(socket.receive(), patience_s)
    except asyncio.TimeoutError:
        raise ApiError(408, f"nothing came for {patience_s:g} s") from None
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", 1006))
    if received.get("bytes") is None:
        raise ApiError(422, "a message came as text; expected msgpack")
    event = unpacked(received["bytes"])
    if not isinstance(event.get("event"), str):
        raise invalid("event", "is missing")
    return event
