"""Speech by plain tritonclient, without our client. Start a server first: make serve.

The demo voice can say what training/sentences.txt lists; a real checkpoint says any text.
"""

import sys
from typing import Any

import numpy as np
import soundfile
from tritonclient.grpc import InferenceServerClient, InferInput


def tensor(name: str, datatype: str, array: np.ndarray) -> InferInput:
    """One input; every tensor has a leading batch axis of 1."""
    return InferInput(name, array.shape, datatype).set_data_from_numpy(array)


text = "Sunday will be foggy and freezing in the valley."
words = "Please bring me seven candles and some chocolate."  # spoken in the recording
recording, sample_rate_hz = soundfile.read("assets/voices/alice.flac", dtype="float32")
client = InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001")
result: Any = client.infer(
    "fish_clone",
    [
        tensor("text", "BYTES", np.array([[text.encode()]], np.object_)),
        tensor("reference_audio", "FP32", recording[None]),
        tensor("reference_text", "BYTES", np.array([[words.encode()]], np.object_)),
        tensor("reference_sample_rate", "INT32", np.array([[sample_rate_hz]], np.int32)),
        tensor("seed", "UINT64", np.array([[7]], np.uint64)),  # options are tensors too
    ],
    client_timeout=300,
)
audio = result.as_numpy("audio")[0]
rate_hz = int(result.as_numpy("sample_rate").item())
soundfile.write("raw.wav", audio, rate_hz)
print(f"raw.wav: {len(audio) / rate_hz:.2f} s, {result.as_numpy('finish_reason').item().decode()}")
