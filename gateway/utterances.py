"""Text that is still being written: cut where it is complete, spoken in order, taken back."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from gateway.answers import Flow
from gateway.errors import ApiError, api_error
from voicereel.script.sentences import SPEAKER_MARK, clauses_of, sentences_of

SHORTEST = 20  # characters; shorter pieces cost a prefill each and spoil the prosody
_AHEAD = 2  # one sentence is spoken while another is sent

Tell: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]


class Cutter:
    """Collects text and gives what is complete.

    Text is complete when more follows it, since a full stop may be that of "3.14". From the first
    mark of a speaker on it is complete at its end only: turns of one dialogue are spoken together.
    """

    def __init__(self, granularity: str, language: str) -> None:
        self._cut = {"sentence": sentences_of, "clause": clauses_of}.get(granularity)
        self._language, self.rest = language, ""

    def add(self, text: str) -> list[str]:
        """Append text; the pieces that are complete now."""
        self.rest += text
        if not self._cut or SPEAKER_MARK.search(self.rest):
            return []
        found, piece = [], ""
        *complete, last = self._cut(self.rest, self._language) or [""]
        for part in complete:
            piece += part
            if len(piece.strip()) >= SHORTEST:
                found.append(piece.strip())
                piece = ""
        self.rest = piece + last
        return found

    def end(self) -> list[str]:
        """What is left, if there are words in it."""
        rest, self.rest = self.rest.strip(), ""
        return [rest] if rest else []


@dataclass(frozen=True)
class Way:
    """How an utterance reaches its listener.

    Attributes:
        begin: Begins to speak a text.
        tell: Sends a message.
        send: Sends audio.
        facts: Fields of every `audio.start`.
    """

    begin: Callable[[str], Flow]
    tell: Tell
    send: Callable[[bytes], Awaitable[None]]
    facts: dict[str, Any]


class Utterance:
    """Sentences of one turn, spoken in order; the next is begun while one is sent.

    Attributes:
        index: Number in the session, from 0.
        seconds: Seconds of audio that were sent.
        is_sent: Whether all of it was sent, or taken back.
    """

    def __init__(self, index: int, way: Way, before: "Utterance | None") -> None:
        self.index, self.seconds, self._way, self._before = index, 0.0, way, before
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue()
        self._opened: asyncio.Queue[tuple[int, str, Flow | ApiError] | None] = asyncio.Queue()
        self._ahead, self._flows = asyncio.Semaphore(_AHEAD), set[Flow]()
        self.sentence = self.waiting_characters = 0
        self._tasks = [asyncio.create_task(self._open()), asyncio.create_task(self._send_all())]

    @property
    def is_sent(self) -> bool:
        return self._tasks[1].done()

    def say(self, sentences: list[str]) -> None:
        """Speak these as well."""
        for sentence in sentences:
            self.waiting_characters += len(sentence)
            self._waiting.put_nowait(sentence)

    def finish(self) -> None:
        """No more follows."""
        self._waiting.put_nowait(None)

    async def wait(self) -> None:
        """Until all of it was sent, or taken back."""
        await asyncio.wait([self._tasks[1]])

    async def cancel(self) -> None:
        """Take back what has not been sent, and free the slots."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for flow in list(self._flows):
            flow.end(asyncio.CancelledError())

    async def _open(self) -> None:
        index = 0
        while (text := await self._waiting.get()) is not None:
            await self._ahead.acquire()
            self.waiting_characters -= len(text)
            found: Flow | ApiError
            try:
                found = self._way.begin(text)
                self._flows.add(found)
            except ApiError as error:
                found = error
            self._opened.put_nowait((index, text, found))
            index += 1
        self._opened.put_nowait(None)

    async def _send_all(self) -> None:
        if self._before:
            await self._before.wait()
            self._before = None
        total = 0
        while (opened := await self._opened.get()) is not None:
            self.sentence, text, found = opened
            await self._send(text, found)
            self._ahead.release()
            total += 1
        await self._tell("session.done", total_sentences=total)

    async def _send(self, text: str, found: Flow | ApiError) -> None:
        where, sent, before = {"sentence_index": self.sentence}, 0, self.seconds
        error: dict[str, Any] | None = None
        try:
            if isinstance(found, ApiError):
                raise found
            piece = await found.first()
            await self._tell("audio.start", **where, sentence_text=text, **self._way.facts)
            while piece:
                await self._way.send(piece.data)
                sent, self.seconds = sent + len(piece.data), before + piece.seconds
                piece = await found.next()
            found.end()
        except Exception as problem:
            if isinstance(found, Flow) and sent:
                found.end(problem)
            error = api_error(problem).body()["error"]
        if isinstance(found, Flow):
            self._flows.discard(found)
        seconds = self.seconds - before
        await self._tell("audio.done", **where, total_bytes=sent, seconds=seconds, error=error)

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self._way.tell({"type": kind, "utterance_index": self.index, **fields})
