"""A script of two speakers -> one waveform and captions. Start a server first: make serve.

The demo voice can say what training/sentences.txt lists; a real checkpoint says any text.
"""

import logging
import sys

from voicereel import save_captions
from voicereel.fish_speech_optimized import get_optimized_engine

# The engine logs its speed, and whether that meets the target.
logging.basicConfig(level=logging.INFO, format="%(message)s")
engine = get_optimized_engine(sys.argv[1] if len(sys.argv) > 1 else None)
engine._warmup_models()
voices = {
    "Alice": engine.extract_speaker_features_fast(
        audio_path="assets/voices/alice.flac",
        reference_text="Please bring me seven candles and some chocolate.",
    ),
    "Bob": engine.extract_speaker_features_fast(
        audio_path="assets/voices/bob.flac",
        reference_text="The train to Paris leaves at seven in the morning.",
    ),
}
audio, captions = engine.synthesize_speech_optimized(
    script=[
        {"speaker_id": "Alice", "text": "Good morning, Bob. Did you sleep well?"},
        {"speaker_id": "Bob", "text": "Good morning, Alice. Let us begin."},
    ],
    speaker_features=voices,
    silence_s=0.3,
    seed=7,
)
audio.save("reel.wav")
save_captions(captions, "reel.vtt")
engine.monitor.log_summary()
