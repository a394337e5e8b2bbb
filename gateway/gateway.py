"""The gateway: what all doors share."""

from collections.abc import Generator
from typing import Protocol

from gateway.account import Account
from gateway.metrics import Metrics
from gateway.servers import Servers
from gateway.settings import Settings
from gateway.sound import Piece, Track, encoded
from gateway.speech import Ask
from gateway.store import VoiceStore
from gateway.streams import Streams
from gateway.traces import Traces
from gateway.voices import Voices
from voicereel import Caller


class Session(Protocol):
    """A connection of live text."""

    @property
    def is_silent(self) -> bool:
        """Whether every turn that was begun has been sent."""
        ...


class Gateway:
    """Servers, voices, and threads for what is in flight.

    Attributes:
        settings: What the operator decided.
        servers: The tritonservers.
        voices: The voices.
        store: Adds and removes voices.
        streams: What is in flight.
        metrics: What Prometheus reads.
        sessions: Connections of live text.
        traces: Records spans.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.traces = settings, Traces()
        self.servers = Servers(settings.urls, settings.timeout_s, self.traces)
        self.voices = Voices(settings.voices_folder, settings.aliases, self.servers)
        self.store = VoiceStore(self.voices, settings.max_voices)
        self.streams = Streams(settings.max_streams)
        self.metrics = Metrics()
        self.sessions: set[Session] = set()

    @property
    def is_silent(self) -> bool:
        """Whether all that was begun has been spoken and sent."""
        return not self.streams.in_flight and all(s.is_silent for s in self.sessions)

    def account(self, caller: Caller, door: str, model: str, format: str) -> Account:
        """An account for a request that begins now."""
        return Account(caller.request_id, door, model, format, self.metrics)

    def metrics_page(self) -> tuple[bytes, str]:
        """The metrics, and their content type."""
        servers = {server.url: server.in_flight for server in self.servers.all()}
        return self.metrics.page(self.streams.in_flight, servers)

    def speak(self, ask: Ask, track: Track) -> Generator[Piece]:
        """Speak what is asked for into a track; blocks, so it runs in a thread of `streams`.

        Raises:
            ApiError: If there is no such voice, or a recording is unusable.
            VoiceReelError: If no server can speak it.
        """
        voice = self.voices.find(ask.voice)
        voice = self.voices.with_references(voice, ask.references)
        yield from encoded(self.servers.stream(lambda client: ask.sounds(client, voice)), track)

    def close(self) -> None:
        """End what is in flight and disconnect."""
        self.streams.close()
        self.servers.close()
        self.traces.close()
