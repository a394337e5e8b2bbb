"""The tensors of a request, held against the contract before any work.

Triton checks less than its configs say: a batch of no rows, an optional input without its one
value, and text that is no text all reach a model (Triton 24.10).
"""

import numpy as np

from ensemble.contract.tensors import ANY, Tensor

_KINDS = {"BYTES": "OS", "BOOL": "b", "FP32": "f", "INT32": "iu", "INT64": "iu", "UINT64": "iu"}


def without_batch(declared: Tensor, batch: np.ndarray | None) -> np.ndarray | None:
    """Check one input of a model that takes one request at a time.

    Args:
        declared: What the contract says of it.
        batch: The values with their batch axis; None if the request left them out.

    Returns:
        The values without their batch axis, or None.

    Raises:
        ValueError: Says what came and what was expected.
    """
    if batch is None:
        if declared.optional:
            return None
        raise ValueError(f"{declared.name} is missing, expected {_described(declared)}.")
    dims = (1, *declared.dims)
    fits = batch.ndim == len(dims) and all(
        want in (ANY, got) for want, got in zip(dims, batch.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{declared.name} has shape {list(batch.shape)}, expected {_described(declared)}."
        )
    if batch.dtype.kind not in _KINDS[declared.dtype]:
        raise ValueError(f"{declared.name} is {batch.dtype}, expected {_described(declared)}.")
    if batch.dtype.kind == "O" and not all(isinstance(value, bytes) for value in batch.flat):
        raise ValueError(f"{declared.name} holds other things than {_described(declared)}.")
    return batch[0]


def _described(declared: Tensor) -> str:
    axes = ["any" if axis == ANY else str(axis) for axis in (1, *declared.dims)]
    return f"{declared.dtype} of shape [{', '.join(axes)}]"
