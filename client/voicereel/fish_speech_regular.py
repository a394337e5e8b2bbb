"""The regular speaker: upstream's code in this process, as a baseline to compare with.

It needs torch and a checkout of voicereel-triton, which are imported when a `RegularSpeaker` is
created; importing this module needs neither.
"""

import importlib
import os
import sys
import threading
from pathlib import Path
from types import ModuleType

from typing_extensions import Unpack

from voicereel.audio import Audio, read_recording
from voicereel.errors import ConfigurationError, InvalidRequest
from voicereel.options import Options, option_tensors
from voicereel.project import project_folder
from voicereel.text import require_words
from voicereel.utterance import SpeechFacts, checked_retries, spoken
from voicereel.voice import Voice, VoiceFeatures


class RegularSpeaker:
    """Speaks one text at a time, whichever threads call; ignores timeouts.

    Attributes:
        checkpoint_id: Identifies the checkpoint; features of another one are refused.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        """Load a checkpoint folder; None is the only one in the project's checkpoints/.

        Raises:
            ConfigurationError: If there is no such checkpoint, or no torch to run it.
        """
        module = _speak_module()
        folder = checkpoint or _only_checkpoint()
        try:
            self._upstream = module.UpstreamSpeaker(folder)
        except module.CheckpointError as error:
            raise ConfigurationError(f"VOICEREEL_CHECKPOINT: {error}") from None
        self.checkpoint_id: str = self._upstream.checkpoint_id
        self._lock = threading.Lock()

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
        """Speak a text, like `Client.synthesize`; streaming options have no effect."""
        require_words(text, "text")
        if isinstance(voice, str | os.PathLike):
            is_encoded = voice_text is None
            voice = (
                VoiceFeatures.load(voice) if is_encoded else self.encode_voice(voice, voice_text)
            )
        if voice and voice.checkpoint_id != self.checkpoint_id:
            raise InvalidRequest(
                f"the voice was made by checkpoint {voice.checkpoint_id}, this is "
                f"{self.checkpoint_id}. Encode the recording again."
            )
        asked = {name: tensor.item() for name, tensor in option_tensors(options).items()}
        texts, codes = (voice.texts, voice.split_codes()) if voice else ((), ())

        def say(part: str, attempt: int) -> Audio:
            seed = {"seed": (asked["seed"] + attempt) % 2**64} if "seed" in asked else {}
            try:
                with self._lock:
                    waveform, reason = self._upstream.speak(part, texts, codes, asked | seed)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
            return Audio(waveform, self._upstream.sample_rate_hz, reason)

        return spoken(text, say, checked_retries(retries), self.speech_facts)

    def speech_facts(self) -> SpeechFacts:
        """How the checkpoint speaks."""
        return SpeechFacts.from_facts(self._upstream.speech)

    def encode_voice(
        self, path: str | os.PathLike[str], text: str, *, chunk_size_s: float | None = None
    ) -> VoiceFeatures:
        """Encode a recording, like `Client.encode_voice`, in one pass whatever the chunk size."""
        require_words(text, f"the text of {path}")
        recording = read_recording(path)
        try:
            with self._lock:
                codes = self._upstream.encode(recording)
        except ValueError as error:
            raise InvalidRequest(f"{path}: {error}") from None
        return VoiceFeatures(codes, (codes.shape[1],), (text,), self.checkpoint_id)


def _speak_module() -> ModuleType:
    root = str(project_folder("the regular engine"))
    if root not in sys.path:
        sys.path.append(root)
    try:
        return importlib.import_module("families.fish_s1.speak")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the regular engine runs upstream's code, and {error.name} is not installed. "
            "Run it in the environment that `make setup` makes, or leave VOICEREEL_USE_OPTIMIZED "
            "true."
        ) from None


def _only_checkpoint() -> Path:
    folder = project_folder("the regular engine") / "checkpoints"
    found = sorted(path.parent for path in folder.glob("*/config.json"))
    if len(found) != 1:
        raise ConfigurationError(
            "VOICEREEL_CHECKPOINT is not set, and checkpoints/ holds "
            f"{', '.join(path.name for path in found) or 'none'}. Name the folder of one."
        )
    return found[0]
