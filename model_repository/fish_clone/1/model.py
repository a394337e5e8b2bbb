"""fish_clone: fish_clone_ensemble, answered once with the whole waveform."""

from ensemble.front_door import UnaryFrontDoor


class TritonPythonModel(UnaryFrontDoor):
    """Inputs as fish_clone_ensemble; audio FP32 (samples,), finish_reason, sample_rate."""

    name = "fish_clone"
    ensemble = "fish_clone_ensemble"
