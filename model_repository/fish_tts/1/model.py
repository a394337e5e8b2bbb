"""fish_tts: fish_tts_ensemble, answered once with the whole waveform."""

from ensemble.front_door import UnaryFrontDoor


class TritonPythonModel(UnaryFrontDoor):
    """Inputs as fish_tts_ensemble; audio FP32 (samples,), finish_reason, sample_rate."""

    name = "fish_tts"
    ensemble = "fish_tts_ensemble"
