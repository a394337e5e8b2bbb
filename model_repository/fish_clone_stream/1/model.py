"""fish_clone_stream: fish_clone_ensemble, in order, trimmed and cancellable."""

from ensemble.front_door import StreamingFrontDoor


class TritonPythonModel(StreamingFrontDoor):
    """Inputs as fish_clone_ensemble; a response per chunk, FINAL with the last."""

    name = "fish_clone_stream"
    ensemble = "fish_clone_ensemble"
