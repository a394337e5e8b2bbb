"""Graphs -> files: TorchScript by tracing, ONNX by the TorchScript-based exporter.

Opset 17 and IR version 8 are what every ONNX Runtime since 1.14 and Triton release 24.10 accept.
The newer, dynamo-based exporter gave no result for the encoder with a dynamic time axis within
minutes, and drops the state of a stateful model without a word; nothing here needs it.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

OPSET = 17
Axes = dict[str, dict[int, str]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence deprecation and tracer warnings; parity at several shapes is what counts here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def torchscript(graph: nn.Module, inputs: dict[str, tuple[Tensor, ...]]) -> torch.jit.ScriptModule:
    """Trace the named methods into one module that shares its weights between them.

    A trace keeps what may be rounded: convolutions in TF32, on a GPU, would not be exact.
    """
    cudnn = torch.backends.cudnn
    allowed, cudnn.allow_tf32 = cudnn.allow_tf32, False
    try:
        with quiet(), torch.no_grad():
            return torch.jit.trace_module(graph, inputs, check_trace=False)
    finally:
        cudnn.allow_tf32 = allowed


def onnx_graph(
    graph: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: list[str],
    output_names: list[str],
    axes: Axes,
    external: bool = False,
) -> None:
    """Write one ONNX file.

    Args:
        graph: Its `forward` is exported.
        inputs: Example inputs; the sizes of the axes named in `axes` do not matter.
        path: Where to.
        input_names, output_names: In the order of `forward`.
        axes: Tensor name -> axis -> symbolic name, for every axis that varies.
        external: Leave the weights out; see `share_weights`.
    """
    with quiet(), torch.no_grad():
        torch.onnx.export(
            graph,
            inputs,
            str(path),
            input_names=input_names,
            output_names=output_names,
            dynamic_axes=axes,
            opset_version=OPSET,
            export_params=not external,
            do_constant_folding=not external,
            dynamo=False,
        )
    model = onnx.load(str(path), load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        for axis, symbol in axes.get(value.name, {}).items():
            # A size that the exporter could infer is still the checkpoint's, not the contract's.
            value.type.tensor_type.shape.dim[axis].dim_param = symbol
    onnx.save(model, str(path))


def share_weights(paths: list[Path], graph: nn.Module, weights: Path) -> None:
    """Give ONNX files written with `external=True` their weights: one file for all of them.

    Args:
        paths: Each takes its weights as inputs that are named like the entries of
            `graph.state_dict()`.
        graph: Holds the weights.
        weights: File beside the others, written here.
    """
    state = graph.state_dict()
    models = {path: onnx.load(str(path), load_external_data=False) for path in paths}
    needed = {i.name for m in models.values() for i in m.graph.input if i.name in state}
    entries = {}
    with weights.open("wb") as file:
        for name in sorted(needed):
            tensor = state[name].detach().contiguous()
            file.write(b"\0" * (-file.tell() % 4096))  # pages, so that it can be mapped
            entries[name] = _entry(name, tensor, weights.name, file.tell())
            file.write(memoryview(tensor.numpy()).cast("B"))
    for path, model in models.items():
        inputs = list(model.graph.input)
        del model.graph.input[:]
        model.graph.input.extend(i for i in inputs if i.name not in entries)
        model.graph.initializer.extend(entries[i.name] for i in inputs if i.name in entries)
        onnx.save(model, str(path))


def _entry(name: str, tensor: Tensor, location: str, offset: int) -> TensorProto:
    types = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64}
    entry = TensorProto(name=name, data_type=types[tensor.dtype], dims=tensor.shape)
    entry.data_location = TensorProto.EXTERNAL
    length = tensor.numel() * tensor.element_size()
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry.external_data.add(key=key, value=str(value))
    return entry
