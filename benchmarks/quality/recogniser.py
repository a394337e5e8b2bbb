"""An offline speech recogniser that knows the grammar of the sentences."""

import tempfile
from pathlib import Path

import numpy as np
import soxr
from pocketsphinx import Config, Decoder  # pyright: ignore[reportMissingImports]

RATE_HZ = 16_000  # of the acoustic model
_SILENCE_S = 0.3  # around the speech, since pocketsphinx expects some


class Recogniser:
    """Pocketsphinx with the US English model of its package, and a JSGF grammar."""

    def __init__(self, grammar: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".jsgf", encoding="utf-8") as file:
            file.write(grammar)
            file.flush()
            config = Config(jsgf=str(Path(file.name)), samprate=RATE_HZ, loglevel="FATAL")
            self._decoder = Decoder(config)

    def words(self, waveform: np.ndarray, rate_hz: int) -> str:
        """The words of a waveform, in lower case; "" if they are no sentence of the grammar.

        Args:
            waveform: float32 (samples,), in [-1, 1].
            rate_hz: Sample rate of the waveform.
        """
        heard = soxr.resample(waveform, rate_hz, RATE_HZ)
        silence = np.zeros(int(_SILENCE_S * RATE_HZ), np.float32)
        samples = np.clip(np.concatenate([silence, heard, silence]), -1, 1) * 32767
        self._decoder.start_utt()
        self._decoder.process_raw(samples.astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""
