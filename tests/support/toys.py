"""Toy models for a real tritonserver: small enough to write in a test, real enough to batch."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

QUICK_TO_BATCH = "dynamic_batching { max_queue_delay_microseconds: 300000 }"


def config(
    backend: str,
    inputs: dict[str, str],
    outputs: dict[str, str],
    max_batch_size: int = 8,
    more: str = QUICK_TO_BATCH,
) -> str:
    """A config.pbtxt; tensors as {"name": "FP32 -1, 3"}."""

    def tensors(which: dict[str, str]) -> str:
        return ", ".join(
            f'{{ name: "{name}", data_type: TYPE_{words.split(" ", 1)[0]}, '
            f"dims: [ {words.split(' ', 1)[1]} ] }}"
            for name, words in which.items()
        )

    return (
        f'backend: "{backend}"\nmax_batch_size: {max_batch_size}\n'
        f"input [ {tensors(inputs)} ]\noutput [ {tensors(outputs)} ]\n"
        f"instance_group [ {{ count: 1, kind: KIND_AUTO }} ]\n{more}\n"
    )


def place(repository: Path, name: str, text: str) -> Path:
    """Make a model's folder with its config; the version folder to put the artefact in."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(text)
    return version


def onnx_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list]],
    outputs: dict[str, tuple[int, list]],
    constants: list[onnx.TensorProto] | None = None,
) -> None:
    """Write an ONNX file that Triton 24.10's runtime would load too."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(n, *spec) for n, spec in inputs.items()],
        [helper.make_tensor_value_info(n, *spec) for n, spec in outputs.items()],
        constants or [],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def doubling(path: Path, axes: tuple = ("batch", "n")) -> None:
    """Write y = 2 x, FP32."""
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    onnx_graph(
        path,
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        {"x": (TensorProto.FLOAT, list(axes))},
        {"y": (TensorProto.FLOAT, list(axes))},
        [two],
    )


def place_doubling(repository: Path, name: str = "doubling", more: str = QUICK_TO_BATCH) -> Path:
    """Place the simplest model there is."""
    version = place(
        repository, name, config("onnxruntime", {"x": "FP32 -1"}, {"y": "FP32 -1"}, more=more)
    )
    doubling(version / "model.onnx")
    return version
