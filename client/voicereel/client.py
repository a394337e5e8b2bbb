"""The client: text and a voice in, speech out."""

import math
import os
from collections.abc import Generator
from contextlib import closing
from typing import Literal, TypeAlias

from typing_extensions import Unpack

from voicereel.audio import Audio, AudioChunk
from voicereel.checkpoint import Checkpoint, checkpoint_from
from voicereel.errors import VoiceReelError
from voicereel.options import Options
from voicereel.transport.base import Tensors, Transport
from voicereel.transport.grpc import GrpcTransport
from voicereel.transport.http import HttpTransport
from voicereel.transport.request import recording_tensors, speech_request
from voicereel.transport.response import audio_from, chunk_from, features_from, in_order
from voicereel.voice import Voice, VoiceFeatures

DEFAULT_URL = "127.0.0.1:8001"  # gRPC port that tritonserver has by default
Protocol: TypeAlias = Literal["grpc", "http"]
FRONT_DOORS = ("fish_tts", "fish_clone", "fish_tts_stream", "fish_clone_stream", "fish_encode")
_READY_TIMEOUT_S = 10.0  # a server answers at once; longer means that it hangs


class Client:
    """A connection to a voicereel-triton server; may be shared by threads.

        with Client("127.0.0.1:8001") as client:
            client.synthesize("Hello.").save("hello.wav")

    Every call raises `InvalidRequest`, `ServerUnavailable`, `Overloaded`, `DeadlineExceeded`,
    `Cancelled` or `ServerError`; all are `VoiceReelError`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        protocol: Protocol = "grpc",
        timeout_s: float = 300.0,
    ) -> None:
        """Prepare a connection, which is made with the first call.

        Args:
            url: HOST:PORT of Triton's gRPC (8001) or HTTP (8000) service.
            protocol: "http" cannot stream.
            timeout_s: Seconds for each call as a whole, unless the call has its own. The server
                drops a request that waits longer in its queues.
        """
        transports = {"grpc": GrpcTransport, "http": HttpTransport}
        if protocol not in transports:
            raise ValueError(f"protocol is {protocol!r}, expected grpc or http")
        self._timeout_s = _checked(timeout_s)
        self._transport: Transport = transports[protocol](url)

    def synthesize(
        self,
        text: str,
        voice: Voice | None = None,
        *,
        voice_text: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Audio:
        """Speak a text.

        Args:
            text: What to say.
            voice: `VoiceFeatures`, the .npz file of some, or a recording (with voice_text);
                None is the checkpoint's own voice.
            voice_text: The words spoken in the recording.
            timeout_s: Seconds for this call, instead of the client's.
            **options: See `Options`.
        """
        model, inputs = speech_request(text, voice, voice_text, options)
        return audio_from(self._transport.infer(model, inputs, self._timeout(timeout_s)))

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
        responses = self._transport.stream(f"{model}_stream", inputs, self._timeout(timeout_s))
        return _chunks(responses)

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
        inputs = recording_tensors(path, chunk_size_s)
        outputs = self._transport.infer("fish_encode", inputs, self._timeout(timeout_s))
        return features_from(outputs, text)

    def checkpoint(self, *, timeout_s: float | None = None) -> Checkpoint:
        """What the server's checkpoint is, and the defaults of its options."""
        timeout_s = self._timeout(timeout_s)
        return checkpoint_from(self._transport.infer("fish_checkpoint", {}, timeout_s))

    def health(self) -> dict[str, bool]:
        """Whether the server as a whole, and each of its front doors, is ready.

        Raises:
            ServerUnavailable: If no server answers.
        """
        return {
            model or "server": self._transport.is_ready(model, _READY_TIMEOUT_S)
            for model in (None, *FRONT_DOORS)
        }

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


def _chunks(responses: Generator[Tensors]) -> Generator[AudioChunk]:
    with closing(responses):
        yield from in_order(map(chunk_from, responses))


def _checked(timeout_s: float) -> float:
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s is {timeout_s}, expected a positive number of seconds")
    return timeout_s
