"""The speech of `voicereel say`: one request, or several for a text that is too long for one."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicereel.audio import Audio, AudioChunk
from voicereel.client import Client
from voicereel.options import Options
from voicereel.script.sentences import LONGEST_PART_BYTES
from voicereel.script.speak import ScriptOptions, stream_script, synthesize_script
from voicereel.settings import settings
from voicereel.transport.request import speech_request
from voicereel.voice import Voice

_SPEAKER = "text"


@dataclass(frozen=True)
class Speech:
    """A text, and how to say it.

    Attributes:
        client: Speaks it.
        text: What to say.
        voice: A voice file, a recording, or None.
        voice_text: The words spoken in the recording.
        options: As in `voicereel.Options`.
        retries: As in `Client.synthesize`; not for chunks.
    """

    client: Client
    text: str
    voice: Path | None
    voice_text: str | None
    options: Options
    retries: int = 0

    @property
    def text_bytes(self) -> int:
        """Of UTF-8; a text that cannot be encoded is refused when it is sent."""
        return len(self.text.encode(errors="replace"))

    def whole(self) -> Audio:
        """All of it; the errors are those of `Client.synthesize`."""
        if self.text_bytes > LONGEST_PART_BYTES:
            how = self._how() | ScriptOptions(retries=self.retries)
            return synthesize_script(self.client, *self._script(), **how).audio
        return self.client.synthesize(
            self.text,
            self.voice,
            voice_text=self.voice_text,
            retries=self.retries,
            **self.options,
        )

    def chunks(self) -> Generator[AudioChunk]:
        """Its audio as it is made; the errors are those of `Client.stream`."""
        if self.text_bytes > LONGEST_PART_BYTES:
            return self._chunks_of_parts()
        return self.client.stream(self.text, self.voice, voice_text=self.voice_text, **self.options)

    def _chunks_of_parts(self) -> Generator[AudioChunk]:
        pieces = stream_script(self.client, *self._script(), **self._how())
        for index, piece in enumerate(pieces):
            yield AudioChunk(
                piece.waveform,
                index,
                piece.caption is not None,
                piece.sample_rate_hz,
                piece.finish_reason,
                piece.warnings,
            )

    def _script(self) -> tuple[list[dict[str, Any]], dict[str, Voice | None]]:
        """A script of one segment, whose voice is encoded once for all of its parts."""
        voice: Voice | None = self.voice
        if self.voice and self.voice_text is not None and self.voice.suffix.lower() != ".npz":
            voice = self.client.encode_voice(self.voice, self.voice_text)
        else:  # voice and voice_text must fit each other, as in a single request
            speech_request(self.text, self.voice, self.voice_text, self.options)
        return [{"speaker_id": _SPEAKER, "text": self.text}], {_SPEAKER: voice}

    def _how(self) -> ScriptOptions:
        how = ScriptOptions(
            max_workers=settings().max_workers, parallel=settings().parallel_synthesis
        )
        how.update(self.options)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return how
