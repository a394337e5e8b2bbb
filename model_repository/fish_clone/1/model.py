"""fish_clone: fish_clone_stream, answered once with the whole waveform."""

from ensemble.serving.front_door import FrontDoor


class TritonPythonModel(FrontDoor):
    """Inputs as fish_clone_stream; audio FP32 (samples,), finish_reason, sample_rate."""

    name = "fish_clone"
    stream_model = "fish_clone_stream"
