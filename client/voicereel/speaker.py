"""What scripts are spoken with: a `Client`, or upstream's model in this process."""

import os
from typing import Protocol

from typing_extensions import Unpack

from voicereel.audio import Audio
from voicereel.transport.request import Options, Voice
from voicereel.voice import VoiceFeatures


class Speaker(Protocol):
    """Encodes voices and says texts; any thread may use it."""

    def synthesize(
        self,
        text: str,
        voice: Voice | None = None,
        *,
        voice_text: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Audio: ...

    def encode_voice(
        self, path: str | os.PathLike[str], text: str, *, chunk_size_s: float | None = None
    ) -> VoiceFeatures: ...
