"""fish_tts_stream: fish_tts_ensemble, in order, trimmed and cancellable."""

from ensemble.front_door import StreamingFrontDoor


class TritonPythonModel(StreamingFrontDoor):
    """Inputs as fish_tts_ensemble; a response per chunk, FINAL with the last."""

    name = "fish_tts_stream"
    ensemble = "fish_tts_ensemble"
