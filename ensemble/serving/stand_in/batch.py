"""One run per batch: requests joined, and each given its own rows of the outputs."""

from collections.abc import Callable, Sequence

import numpy as np

from ensemble.serving.stand_in.served_model import ServedModel

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]  # from the inputs of one run, by name, to its outputs


def run_batch(model: ServedModel, requests: Sequence[Arrays], run: Run) -> list[Arrays | Exception]:
    """Run all requests as one batch, and give each its own rows of the outputs.

    Args:
        model: The model; without a batch axis each request is a run of its own.
        requests: Inputs by name, each with its leading batch axis.
        run: From the inputs of one run to its outputs; raises on failure.

    Returns:
        For each request its outputs by name, or what made it fail. A batch that fails is tried
        again request by request, so that one bad request does not take down the others.
    """
    if len(requests) == 1 or model.batched:
        try:
            return _split(requests, run(_join(requests)), model.batched)
        except Exception as error:  # whatever a runtime raises is an answer, not the stub's end
            if len(requests) == 1:
                return [error]
    return [run_batch(model, [request], run)[0] for request in requests]


def _join(requests: Sequence[Arrays]) -> Arrays:
    if len(requests) == 1:
        return dict(requests[0])
    return {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}


def _split(requests: Sequence[Arrays], outputs: Arrays, batched: bool) -> list[Arrays | Exception]:
    if not batched:
        return [outputs]
    rows = [len(next(iter(request.values()))) for request in requests]
    for name, array in outputs.items():
        if array.shape[:1] != (sum(rows),):
            raise RuntimeError(f"output {name} has shape {array.shape}, expected {sum(rows)} rows")
    ends = np.cumsum(rows)
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]
