"""VoiceReel's engine: recordings become features, scripts become speech, with any `Speaker`."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import TypeAlias

from typing_extensions import Unpack

from voicereel.errors import InvalidRequest
from voicereel.performance_optimizer import PerformanceMonitor, meets_target
from voicereel.script.reel import Reel
from voicereel.script.segment import ScriptLike
from voicereel.script.speak import ScriptOptions, synthesize_script
from voicereel.script.synthesis import Progress
from voicereel.settings import Settings
from voicereel.speaker import Speaker
from voicereel.voice import Voice, VoiceFeatures

PathLike: TypeAlias = str | os.PathLike[str]

logger = logging.getLogger(__name__)


class Engine:
    """What `get_optimized_engine()` returns; may be shared by threads.

    Attributes:
        monitor: Times of the stages "features", "synthesis" and "warm-up".
    """

    def __init__(self, speaker: Speaker, settings: Settings) -> None:
        self._speaker, self._settings = speaker, settings
        self.monitor = PerformanceMonitor()

    def extract_speaker_features_fast(
        self,
        audio_path: PathLike | Sequence[PathLike],
        reference_text: str | Sequence[str],
        use_chunking: bool = True,
        chunk_size: float = 3,
    ) -> VoiceFeatures:
        """Encode a voice, once, for any number of scripts.

        Args:
            audio_path: A recording of 5 to 30 s, or several of the same voice.
            reference_text: The words spoken in it, or in each.
            use_chunking: True encodes a recording in pieces, in memory that does not grow with its
                length; False in one pass. The features are the same. (The regular engine always
                encodes in one pass, as upstream does.)
            chunk_size: Seconds of each piece; shorter ones need less memory (at S1-mini's size on
                a CPU: 0.6 GB for 3 s; 1.7 GB and one and a half times the time for 10 s).

        Raises:
            InvalidRequest: If the numbers of recordings and texts differ, or a recording is
                unusable.
        """
        if use_chunking and not chunk_size > 0:
            raise InvalidRequest(f"chunk_size is {chunk_size}, expected seconds above 0")
        paths = [audio_path] if isinstance(audio_path, str | os.PathLike) else list(audio_path)
        texts = [reference_text] if isinstance(reference_text, str) else list(reference_text)
        if not paths or len(paths) != len(texts):
            raise InvalidRequest(
                f"{len(paths)} recordings and {len(texts)} texts, expected one text for each "
                "recording: the words spoken in it"
            )
        encode = partial(
            self._speaker.encode_voice, chunk_size_s=chunk_size if use_chunking else math.inf
        )
        with self.monitor.timed("features"):
            return reduce(add, map(encode, paths, texts))

    def synthesize_speech_optimized(
        self,
        script: ScriptLike,
        speaker_features: Mapping[str, Voice | None],
        use_parallel: bool = True,
        *,
        progress: Progress | None = None,
        **how: Unpack[ScriptOptions],
    ) -> Reel:
        """Speak a script into `audio, captions`.

        Args:
            script: Segments: `{"speaker_id", "text"}`, see `voicereel.Segment`.
            speaker_features: The voice of each speaker: features, or the .npz file of some.
            use_parallel: False sends one segment at a time, whatever VOICEREEL_PARALLEL_SYNTHESIS
                says.
            progress: As in `voicereel.synthesize_script`.
            **how: See `voicereel.script.speak.ScriptOptions`; max_workers is
                VOICEREEL_MAX_WORKERS if left out.

        Returns:
            The audio, which NumPy takes as an array of float32 samples and which has
            `sample_rate_hz`, `duration_s` and `save(path)`; and for each segment a caption,
            `{"start", "end", "speaker", "text"}` with times in seconds.

        Raises:
            VoiceReelError: As `voicereel.synthesize_script` does.
        """
        how.setdefault("max_workers", self._settings.max_workers)
        how.setdefault("parallel", use_parallel and self._settings.parallel_synthesis)
        self.monitor.start_timer("synthesis")
        try:
            reel = synthesize_script(
                self._speaker, script, speaker_features, progress=progress, **how
            )
        finally:
            wall_s = self.monitor.end_timer("synthesis")
        _log_speed(reel.audio.duration_s, wall_s)
        return reel

    def _warmup_models(self) -> None:
        """Speak a few frames with all workers at once, since a server's first requests are slow.

        Raises:
            ServerUnavailable: If no server answers.
        """
        workers = self._settings.max_workers if self._settings.parallel_synthesis else 1
        script = [{"speaker_id": "warm-up", "text": "Hello."}] * workers
        with self.monitor.timed("warm-up"):
            synthesize_script(
                self._speaker, script, {"warm-up": None}, max_workers=workers, max_new_tokens=8
            )


def _log_speed(audio_s: float, wall_s: float) -> None:
    rtf = wall_s / audio_s if audio_s else 0.0
    logger.info(f"Synthesis complete: {audio_s:.1f}s audio in {wall_s:.1f}s (RTF: {rtf:.2f})")
    if meets_target(audio_s, wall_s):
        logger.info("Performance target achieved: 30s audio in ≤8s!")
