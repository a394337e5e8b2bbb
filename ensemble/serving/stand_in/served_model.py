"""A model as Triton hands it to a backend: its config, checked and parsed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.contract.tensors import ANY, Signature, Tensor

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
