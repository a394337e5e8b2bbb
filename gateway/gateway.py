"""The gateway: what all doors share."""

from collections.abc import Generator

from gateway.servers import Servers
from gateway.settings import Settings
from gateway.sound import Piece, Track, encoded
from gateway.speech import Ask
from gateway.store import VoiceStore
from gateway.streams import Streams
from gateway.voices import Voices


class Gateway:
    """Servers, voices, and threads for what is in flight.

    Attributes:
        settings: What the operator decided.
        servers: The tritonservers.
        voices: The voices.
        store: Adds and removes voices.
        streams: What is in flight.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.servers = Servers(settings.urls, settings.timeout_s)
        self.voices = Voices(settings.voices_folder, settings.aliases, self.servers)
        self.store = VoiceStore(self.voices, settings.max_voices)
        self.streams = Streams(settings.max_streams)

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
