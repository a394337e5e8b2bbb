"""What the Python-based stand-ins for native backends share: config in, one run per batch.

Knows nothing of Triton's Python API, so it can be tested without a server.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.contract.tensors import ANY, Signature, Tensor

Arrays = dict[str, np.ndarray]

NUMPY_DTYPES = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "STRING": np.object_,
    **{f"INT{bits}": np.dtype(f"int{bits}").type for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"uint{bits}").type for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class ServedModel:
    """What Triton tells a backend instance of its model.

    Attributes:
        name: The model's name, which every message starts with.
        artefact: The file to load.
        signature: Inputs and outputs as configured.
        batched: Whether tensors have a leading batch axis (max_batch_size > 0).
        parameters: The config's `parameters`.
        graph_level: The config's `optimization { graph { level } }`, 0 where left out.
        gpu: CUDA device number, or None for the CPU.
    """

    name: str
    artefact: Path
    signature: Signature
    batched: bool
    parameters: dict[str, str]
    graph_level: int
    gpu: int | None

    @classmethod
    def from_args(cls, args: Mapping[str, str], default_filename: str) -> "ServedModel":
        """Read the arguments of `TritonPythonModel.initialize`.

        Raises:
            FileNotFoundError: If the artefact has not been exported.
            ValueError: If the config asks for what the stand-ins do not do.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        name, kind = config["name"], args["model_instance_kind"]
        filename = config.get("default_model_filename") or default_filename
        artefact = Path(args["model_repository"], args["model_version"], filename)
        if not artefact.is_file():
            raise FileNotFoundError(
                f"{name}: {artefact} is missing. Make it with: make export CHECKPOINT=DIR"
            )
        if kind not in ("CPU", "GPU"):
            raise ValueError(f"{name}: instance kind {kind} is not supported, only CPU and GPU")
        batched = int(config["max_batch_size"]) > 0
        return cls(
            name=name,
            artefact=artefact,
            signature=Signature(
                tuple(_tensor(name, t, batched) for t in config["input"]),
                tuple(_tensor(name, t, batched) for t in config["output"]),
            ),
            batched=batched,
            parameters={k: v["string_value"] for k, v in config.get("parameters", {}).items()},
            graph_level=int(config.get("optimization", {}).get("graph", {}).get("level", 0)),
            gpu=int(args["model_instance_device_id"]) if kind == "GPU" else None,
        )

    def number(self, parameter: str, default: int = 0) -> int:
        """An integer parameter; ValueError names it where it is not one."""
        text = self.parameters.get(parameter, str(default))
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{self.name}: {parameter} is {text!r}, not an integer") from None

    def flag(self, parameter: str, default: bool) -> bool:
        """A boolean parameter, spelled as the native backends allow it."""
        text = self.parameters.get(parameter, str(default)).lower()
        if text not in ("true", "false", "1", "0"):
            raise ValueError(f"{self.name}: {parameter} is {text!r}, not true or false")
        return text in ("true", "1")

    def refuse(self, differences: list[str]) -> None:
        """Raise ValueError if the artefact is not what the config says."""
        if differences:
            raise ValueError(
                f"{self.name}: {self.artefact} does not fit its config.pbtxt: "
                + "; ".join(differences)
                + ". Re-export with: make export CHECKPOINT=DIR"
            )


def _tensor(model: str, tensor: Mapping[str, Any], batched: bool) -> Tensor:
    for feature in ("optional", "allow_ragged_batch", "reshape"):
        if tensor.get(feature):
            raise ValueError(f"{model}: {tensor['name']}: `{feature}` is not supported here")
    dtype = tensor["data_type"].removeprefix("TYPE_")
    if dtype not in NUMPY_DTYPES:
        raise ValueError(f"{model}: {tensor['name']}: data type {dtype} is not supported here")
    dims = tuple(int(d) for d in tensor["dims"])
    return Tensor(tensor["name"], dtype, (ANY, *dims) if batched else dims)


def run_batch(
    model: ServedModel, requests: Sequence[Arrays], run: Callable[[Arrays], Arrays]
) -> list[Arrays | Exception]:
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
            raise ValueError(f"output {name} has shape {array.shape}, expected {sum(rows)} rows")
    ends = np.cumsum(rows)
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]
