"""The interface that scripts need: a `Client` has it, and upstream's model in this process."""

import os
from typing import Protocol

from typing_extensions import Unpack

from voicereel.audio import Audio
from voicereel.options import Options
from voicereel.voice import Voice, VoiceFeatures


class Speaker(Protocol):
    """Encodes voices and speaks texts; may be shared by threads."""

    def synthesize(
        self,
        text: str,
        voice: Voice | None = None,
        *,
        voice_text: str | None = None,
        timeout_s: float | None = None,
        retries: int = 0,
        **options: Unpack[Options],
    ) -> Audio: ...

    def encode_voice(
        self, path: str | os.PathLike[str], text: str, *, chunk_size_s: float | None = None
    ) -> VoiceFeatures: ...
