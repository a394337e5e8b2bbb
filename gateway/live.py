"""WebSocket `/v1/audio/speech/stream`: text while it is written, speech while it is made.

| from the caller | meaning |
|--|--|
| `session.config` | first: `split_granularity`, and the fields of a request for speech |
| `input.text` | more text, of any length |
| `input.done` | the turn is complete: speak the rest; the connection stays |
| `input.cancel` | be silent at once; answered by how many seconds were sent |
| `session.close` | speak what is complete, then end |
"""

import asyncio
import contextlib
import json
from collections.abc import Generator
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.answers import Flow
from gateway.doors import caller_of
from gateway.errors import ApiError, invalid
from gateway.fields import checked
from gateway.sound import Piece, Track
from gateway.speech import MODEL, Ask, ask_of
from gateway.utterances import Cutter, Utterance, Way

CONFIG_S = 10.0  # seconds until the configuration must have come
IDLE_S = 30.0  # seconds of silence on both sides after which the connection ends
MAX_WAITING = 128 * 1024  # characters of text that wait to be spoken
MAX_MESSAGE = 128 * 1024  # characters of a message but the configuration, whose limit is uvicorn's
SUBPROTOCOL = "voicereel"  # a browser, which cannot set headers, offers it beside key.KEY


class Split(BaseModel):
    """The one field of `session.config` that a request for speech has not."""

    model_config = ConfigDict(extra="forbid")
    split_granularity: Literal["none", "sentence", "clause"] = "sentence"


class Text(BaseModel):
    """`input.text`."""

    model_config = ConfigDict(extra="forbid")
    type: str
    text: str


async def live(socket: WebSocket) -> None:
    """One connection."""
    offered = socket.scope["subprotocols"]
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    session, code = Session(socket), 1000
    sessions = socket.state.gateway.sessions
    sessions.add(session)
    try:
        await session.configure()
        while await session.step():
            pass
    except WebSocketDisconnect:
        return
    except ApiError as error:
        code = 1008
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await session.tell({"type": "error", **error.body()})
    finally:
        sessions.discard(session)
        await session.end()
    with contextlib.suppress(RuntimeError):
        await socket.close(code)


class Session:
    """A configuration, and the utterances spoken with it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket, self._gateway = socket, socket.state.gateway
        self._utterances: list[Utterance] = []  # which have not been sent
        self._next, self._is_begun = 0, False  # the number of the next; whether one is open

    @property
    def is_silent(self) -> bool:
        return all(utterance.is_sent for utterance in self._utterances)

    async def configure(self) -> None:
        """Wait for the configuration.

        Raises:
            ApiError: If it is wrong, or another message comes first, or none.
        """
        message = await self._message(CONFIG_S, None)
        if message.pop("type") != "session.config":
            raise ApiError(422, "the first message must be session.config", "type")
        split = {name: message.pop(name) for name in Split.model_fields if name in message}
        fields = {"model": MODEL, "response_format": "pcm", **message, "input": "text"}
        for name in ("input", "stream", "stream_format"):
            if name in message:
                raise ApiError(422, f"{name} is no field of session.config", name, "unknown_field")
        self._ask = ask_of(fields, self._gateway.settings)
        await asyncio.to_thread(self._gateway.voices.find, self._ask.voice)  # 404 at once
        granularity = checked(Split, split).split_granularity
        self._cutter = Cutter(granularity, self._ask.language)
        shape = self._ask.shape
        self._facts = {"format": shape.format, "sample_rate": shape.rate_hz, "channels": 1}
        ignored = {"ignored": list(self._ask.ignored)} if self._ask.ignored else {}
        await self.tell({"type": "session.configured", **self._facts, **ignored})

    async def step(self) -> bool:
        """Do what the next message says; whether the session goes on."""
        message = await self._message(IDLE_S, MAX_MESSAGE)
        kind = message["type"]
        if kind == "input.text":
            self._add(checked(Text, message).text)
        elif kind == "input.done":
            self._finish()
        elif kind == "input.cancel":
            await self._cancel()
        elif kind == "session.close":
            self._finish(only_if_begun=True)
            for utterance in self._utterances:
                await utterance.wait()
            return False
        else:
            known = "input.text, input.done, input.cancel, session.close"
            raise invalid("type", f"is {kind!r}, expected {known}")
        return True

    async def tell(self, message: dict[str, Any]) -> None:
        """Send a message."""
        await self._socket.send_text(json.dumps(message, ensure_ascii=False))

    async def end(self) -> None:
        """Free what is still being spoken."""
        for utterance in self._utterances:
            await utterance.cancel()

    def _add(self, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise invalid("text", "holds half of a surrogate pair") from None
        waiting = len(self._cutter.rest) + sum(u.waiting_characters for u in self._utterances)
        if waiting + len(text) > MAX_WAITING:
            raise ApiError(
                422, f"more than {MAX_WAITING} characters wait to be spoken", "text",
                "text_too_long",
            )  # fmt: skip
        self._current().say(self._cutter.add(text))

    def _finish(self, only_if_begun: bool = False) -> None:
        rest = self._cutter.end()
        if only_if_begun and not (rest or self._is_begun):
            return
        current = self._current()
        current.say(rest)
        current.finish()
        self._is_begun = False

    def _current(self) -> Utterance:
        """The utterance that text belongs to now."""
        if not self._is_begun:
            self._utterances = [u for u in self._utterances if not u.is_sent]
            before = self._utterances[-1] if self._utterances else None
            way = Way(self._begin, self.tell, self._socket.send_bytes, self._facts)
            self._utterances.append(Utterance(self._next, way, before))
            self._next, self._is_begun = self._next + 1, True
        return self._utterances[-1]

    async def _cancel(self) -> None:
        """Barge-in: the answer says how much of each utterance was sent."""
        self._cutter.end()
        spoken = [u for u in self._utterances if not u.is_sent]
        for utterance in spoken:
            await utterance.cancel()
        self._utterances, self._is_begun = [], False
        cancelled = [{"utterance_index": u.index, "sentence_index": u.sentence,
                      "seconds_sent": u.seconds} for u in spoken]  # fmt: skip
        seconds = sum(u.seconds for u in spoken)
        message = {"type": "input.cancelled", "seconds_sent": seconds, "utterances": cancelled}
        await self.tell(message)

    def _begin(self, text: str) -> Flow:
        ask: Ask = replace(self._ask, text=text)
        caller, track = caller_of(self._socket), Track(ask.shape)

        def pieces() -> Generator[Piece]:
            return self._gateway.speak(ask, track)

        account = self._gateway.account(caller, "live", ask.model, ask.shape.format)
        return Flow(self._gateway.streams.open(caller, pieces), track, account)

    async def _message(self, patience_s: float, longest: int | None) -> dict[str, Any]:
        """The next message, an object with a `type`."""
        while True:
            try:
                received = await asyncio.wait_for(self._socket.receive(), patience_s)
                break
            except asyncio.TimeoutError:
                if self.is_silent:
                    raise ApiError(408, f"nothing came for {patience_s:g} s") from None
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1006))
        text = received.get("text")
        if text is None:
            raise ApiError(422, "a binary message came; expected JSON as text")
        if longest and len(text) > longest:
            raise ApiError(422, f"a message has {len(text)} characters, expected {longest} at most")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"a message is no JSON: {error}") from None
        if not (isinstance(message, dict) and isinstance(message.get("type"), str)):
            raise ApiError(422, "a message has no type; expected an object with one", "type")
        return {name: value for name, value in message.items() if value is not None}
