"""The client: text and a voice in, speech out."""

import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial

from typing_extensions import Unpack

from voicereel.audio import Audio, AudioChunk
from voicereel.checkpoint import Checkpoint, checkpoint_from, described_in
from voicereel.errors import DeadlineExceeded, VoiceReelError
from voicereel.options import Options
from voicereel.script.sentences import parts_of, sentences_of
from voicereel.text import require_words
from voicereel.transport.address import Protocol, addresses_of
from voicereel.transport.base import Tensors
from voicereel.transport.repeats import RETURN_S
from voicereel.transport.request import recording_tensors, speech_request, with_text
from voicereel.transport.response import (
    audio_from,
    chunk_from,
    features_from,
    in_order,
)
from voicereel.transport.servers import Server, Servers
from voicereel.utterance import (
    Deadline,
    SpeechFacts,
    checked_retries,
    in_parallel,
    joined,
    spoken,
    streamed,
)
from voicereel.voice import Voice, VoiceFeatures

DEFAULT_URL = "127.0.0.1:8001"  # gRPC port that tritonserver has by default
FRONT_DOORS = ("fish_tts", "fish_clone", "fish_tts_stream", "fish_clone_stream", "fish_encode")
_READY_TIMEOUT_S = 10.0  # a server answers at once; longer means that it hangs
_FACTS_S = 0.5  # less than a server takes to come back, with another checkpoint perhaps
_PARTS_AT_A_TIME = 4  # requests in flight for one text


class Client:
    """A connection to one voicereel-triton server or several; may be shared by threads.

        with Client("127.0.0.1:8001") as client:
            client.synthesize("Hello.").save("hello.wav")

    Every call raises `InvalidRequest`, `ServerUnavailable`, `Overloaded`, `DeadlineExceeded`,
    `Cancelled` or `ServerError`; all are `VoiceReelError`.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        protocol: Protocol = "grpc",
        timeout_s: float = 300.0,
        return_s: float = RETURN_S,
    ) -> None:
        """Prepare a connection, which is made with the first call.

        Args:
            url: HOST:PORT of Triton's gRPC (8001) or HTTP (8000) service; grpc:// or http://
                before it says which of the two it is. Several, as a list or with commas, or a name
                that has several addresses, share the requests: the one with the fewest in flight is
                asked, and one that is away or full is passed over. All must serve the same
                checkpoint.
            protocol: "http" cannot stream.
            timeout_s: Seconds for each call as a whole, unless the call has its own. The server
                drops a request that waits longer in its queues.
            return_s: Seconds that a call waits, within its own, for a server that has answered
                before and is gone. 0 fails at once, for callers who have another server.

        Raises:
            InvalidRequest: If the URL is not one.
        """
        if protocol not in ("grpc", "http"):
            raise ValueError(f"protocol is {protocol!r}, expected grpc or http")
        self._timeout_s = _checked(timeout_s)
        self._transport = Servers(addresses_of(url, protocol), return_s)
        self._facts: tuple[SpeechFacts, float, int] | None = None  # when they were told, and losses

    def synthesize(
        self,
        text: str,
        voice: Voice | None = None,
        *,
        voice_text: str | None = None,
        timeout_s: float | None = None,
        retries: int = 0,
        **options: Unpack[Options],
    ) -> Audio:
        """Speak a text; a checkpoint that can say one sentence at a time gets it in parts.

        Args:
            text: What to say.
            voice: `VoiceFeatures`, the .npz file of some, or a recording (with voice_text);
                None is the checkpoint's own voice.
            voice_text: The words spoken in the recording.
            timeout_s: Seconds for this call, instead of the client's.
            retries: How often to try again if the speech is impossibly fast or slow for its text,
                or a loop: first with another seed, then in smaller parts as well. What is still
                so has a warning in `Audio.warnings`.
            **options: See `Options`.
        """
        checked_retries(retries)
        model, inputs = speech_request(text, voice, voice_text, options)
        deadline = Deadline(self._timeout(timeout_s))

        def say(part: str, attempt: int) -> Audio:
            asked = with_text(inputs, part, attempt)
            return audio_from(self._transport.infer(model, asked, deadline.left()))

        facts = partial(self._facts_within, deadline)
        speak = partial(spoken, say=say, retries=retries, facts=facts)
        return joined(in_parallel(_parts(text, facts), speak, _PARTS_AT_A_TIME))

    def stream(
        self,
        text: str,
        voice: Voice | None = None,
        *,
        voice_text: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Generator[AudioChunk]:
        """Speak a text and yield the audio of `synthesize` in chunks, as the server makes them.

        The arguments are those of `synthesize`. The request is sent with the first `next`; closing
        the iterator, also by garbage collection, cancels it. Chunks are fetched as they arrive,
        however slowly they are consumed, so the timeout is for the server alone.

        Raises:
            ServerError: If the request fails, or the stream ends before its last chunk.
        """
        model, inputs = speech_request(text, voice, voice_text, options)
        deadline, model = Deadline(self._timeout(timeout_s)), f"{model}_stream"
        whole = self._transport.stream(model, inputs, deadline.left())  # raises over HTTP

        def stream(part: str) -> Generator[AudioChunk]:
            if part == text:
                return _chunks(whole)
            return _chunks(self._transport.stream(model, with_text(inputs, part), deadline.left()))

        facts = partial(self._facts_within, deadline)
        return streamed(partial(_parts, text, facts), stream, facts)

    def encode_voice(
        self,
        path: str | os.PathLike[str],
        text: str,
        *,
        chunk_size_s: float | None = None,
        timeout_s: float | None = None,
    ) -> VoiceFeatures:
        """Encode a recording of a voice once, for any number of texts.

        Args:
            path: The recording, 5 to 30 s.
            text: The words spoken in it.
            chunk_size_s: Seconds that the server encodes at a time, at least a frame. The features
                do not depend on it, the server's memory does. `math.inf` encodes in one pass;
                None leaves the choice to the server.
            timeout_s: Seconds for this call, instead of the client's.

        Returns:
            Features of this recording; `+` joins those of several.
        """
        require_words(text, f"the text of {path}")
        inputs = recording_tensors(path, chunk_size_s)
        outputs = self._transport.infer("fish_encode", inputs, self._timeout(timeout_s))
        return features_from(outputs, text)

    def checkpoint(self, *, timeout_s: float | None = None) -> Checkpoint:
        """What the server's checkpoint is, and the defaults of its options."""
        timeout_s = self._timeout(timeout_s)
        return checkpoint_from(self._transport.infer("fish_checkpoint", {}, timeout_s))

    def speech_facts(self, timeout_s: float = _READY_TIMEOUT_S) -> SpeechFacts:
        """How the server's checkpoint speaks. Defaults if it cannot tell in time."""
        now, losses = time.monotonic(), self._transport.losses
        if self._facts and now - self._facts[1] < _FACTS_S and losses == self._facts[2]:
            return self._facts[0]
        try:
            told = self._transport.infer("fish_checkpoint", {}, timeout_s)
            self._facts = SpeechFacts.from_facts(described_in(told)), now, losses
        except VoiceReelError:  # of an older version, or away: the request itself tells
            return self._facts[0] if self._facts else SpeechFacts()
        return self._facts[0]

    def _facts_within(self, deadline: Deadline) -> SpeechFacts:
        try:
            return self.speech_facts(min(_READY_TIMEOUT_S, deadline.left()))
        except DeadlineExceeded:  # what has been spoken is not lost for that
            return self._facts[0] if self._facts else SpeechFacts()

    def health(self) -> dict[str, bool]:
        """Whether the server as a whole, and each of its front doors, is ready.

        Of several servers it is the one with most doors ready.

        Raises:
            ServerUnavailable: If no server answers.
        """
        return self._transport.health((None, *FRONT_DOORS), _READY_TIMEOUT_S)

    def servers(self) -> list[Server]:
        """The servers behind this client, each with its address and its calls in flight."""
        return self._transport.all()

    def ready(self) -> bool:
        """Whether all front doors accept requests now; False also if no server answers."""
        try:
            return all(self.health().values())
        except VoiceReelError:
            return False

    def close(self) -> None:
        """Cancel requests in flight and disconnect."""
        self._transport.close()

    def _timeout(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else _checked(timeout_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parts(text: str, facts: Callable[[], SpeechFacts]) -> list[str]:
    """The text, or its sentences for a checkpoint that cannot say them together."""
    if len(sentences_of(text)) == 1:
        return [text]
    # Where there is no limit the text stays whole: long ones are for scripts.
    limit = facts().letters_per_request
    return parts_of(text, letters_per_request=limit) if limit else [text]


def _chunks(responses: Generator[Tensors]) -> Generator[AudioChunk]:
    with closing(responses):
        yield from in_order(map(chunk_from, responses))


def _checked(timeout_s: float) -> float:
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s is {timeout_s}, expected a positive number of seconds")
    return timeout_s
