"""Speech while it is being made, chunk by chunk. Start a server first: make serve.

The demo voice can say what training/sentences.txt lists; a real checkpoint says any text.
"""

import sys
import time

from voicereel import AudioWriter, Client

with Client(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
    begin = time.perf_counter()
    chunks = client.stream(
        "Once upon a time, a sleepy dolphin lived inside the library.",
        "assets/voices/bob.flac",  # a recording, which the server encodes first
        voice_text="The train to Paris leaves at seven in the morning.",
        seed=7,
    )
    with AudioWriter("streamed.wav", sample_rate_hz=44_100) as file:
        for chunk in chunks:
            file.write(chunk.waveform)  # a player may read along
            what = "time to first audio" if chunk.index == 0 else f"chunk {chunk.index}"
            print(f"{what}: {time.perf_counter() - begin:.3f} s, {len(chunk.waveform)} samples")
