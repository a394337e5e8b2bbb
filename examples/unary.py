"""Text in, a WAV file out. Start a server first: make serve.

The demo voice can say what training/sentences.txt lists; a real checkpoint says any text.
"""

import sys

from voicereel import Client

with Client(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
    voice = client.encode_voice(
        "assets/voices/alice.flac",
        "Please bring me seven candles and some chocolate.",
    )
    audio = client.synthesize("Good morning, Bob. Did you sleep well?", voice, seed=7)
audio.save("hello.wav")
print(f"hello.wav: {audio.duration_s:.2f} s, {audio.finish_reason}")
