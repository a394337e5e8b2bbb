"""fish_tts: fish_tts_stream, answered once with the whole waveform."""

from ensemble.serving.front_door import FrontDoor


class TritonPythonModel(FrontDoor):
    """Inputs as fish_tts_stream; audio FP32 (samples,), finish_reason, sample_rate."""

    name = "fish_tts"
    stream_model = "fish_tts_stream"
