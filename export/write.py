"""Writes graphs as ONNX files, by the TorchScript-based exporter.

Opset 17 and IR version 8 are what every ONNX Runtime since 1.14 and Triton release 24.10 accept.
The newer, dynamo-based exporter gave no result for the encoder with a dynamic time axis within
minutes, and drops the state of a stateful model without a word; nothing here needs it.
"""

import io
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto
from torch import Tensor, nn

from export.trace import quiet

OPSET = 17
_TRANSPOSED = ".T"  # suffix of the name of a transposed matrix
Axes = dict[str, dict[int, str]]


class _WeightsGiven(nn.Module):
    """A graph that takes its weights as inputs: as parameters they would be copied twice."""

    def __init__(self, graph: nn.Module, weights: list[Tensor]) -> None:
        super().__init__()
        self.graph, self.weights = [graph], weights  # in a list, so that it is no submodule

    def forward(self, *inputs: Tensor) -> Any:
        count = len(inputs) - len(self.weights)
        given = {id(w): x for w, x in zip(self.weights, inputs[count:], strict=True)}
        (graph,) = self.graph
        tables: list[dict] = [t for m in graph.modules() for t in (m._parameters, m._buffers)]
        kept = [dict(table) for table in tables]
        try:  # `torch.func.functional_call` refuses to be traced
            for table in tables:
                table.update({n: given[id(t)] for n, t in table.items() if id(t) in given})
            return graph(*inputs[:count])
        finally:
            for table, before in zip(tables, kept, strict=True):
                table.update(before)


def onnx_graph(
    graph: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    axes: Axes,
) -> ModelProto:
    """A graph without its weights, which are inputs of their names; see `share_weights`.

    Args:
        graph: Its `forward` is exported.
        inputs: Example inputs; the sizes of the axes named in `axes` do not matter.
        input_names, output_names: In the order of `forward`.
        axes: Tensor name -> axis -> symbolic name, for every axis that varies.
    """
    weights, file = _own_weights(graph), io.BytesIO()
    with quiet(), torch.no_grad():
        torch.onnx.export(
            _WeightsGiven(graph, list(weights.values())),
            (*inputs, *weights.values()),
            cast(Any, file),
            input_names=[*input_names, *weights],
            output_names=output_names,
            dynamic_axes=axes,
            opset_version=OPSET,
            do_constant_folding=False,
            dynamo=False,
        )
    model = onnx.load_model_from_string(file.getvalue())
    for value in (*model.graph.input, *model.graph.output):
        for axis, symbol in axes.get(value.name, {}).items():
            # The exporter may infer the checkpoint's size where the contract has any.
            value.type.tensor_type.shape.dim[axis].dim_param = symbol
    _transpose_weights(model, weights_of(graph))
    used = {name for node in model.graph.node for name in node.input}
    _keep_inputs(model, lambda name: name in used or name not in weights)
    return model


def _own_weights(graph: nn.Module) -> dict[str, Tensor]:
    return {**dict(graph.named_parameters()), **dict(graph.named_buffers())}


def weights_of(graph: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, and each matrix transposed as well."""
    weights = _own_weights(graph)
    transposed = {name + _TRANSPOSED: w.T for name, w in weights.items() if w.dim() == 2}
    return {name: w.detach() for name, w in (*weights.items(), *transposed.items())}


def _transpose_weights(model: ModelProto, weights: Collection[str]) -> None:
    """Replace transpositions of weights by transposed weights, which can be memory-mapped."""
    kept, transposed = [], {}
    for node in model.graph.node:
        name = node.input[0] + _TRANSPOSED if node.op_type == "Transpose" else ""
        if name in weights:
            transposed[node.output[0]] = name
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [transposed.get(name, name) for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.input.extend(
        ValueInfoProto(name=name) for name in dict.fromkeys(transposed.values())
    )


def _keep_inputs(model: ModelProto, wanted: Callable[[str], bool]) -> None:
    kept = [i for i in model.graph.input if wanted(i.name)]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def share_weights(models: dict[Path, ModelProto], graph: nn.Module, file: Path) -> None:
    """Write models of `onnx_graph` with their weights: one file for all of them.

    Args:
        models: The models by the path to write each to.
        graph: The module that holds the weights.
        file: The file of the weights, in the folder of the models.
    """
    weights = weights_of(graph)
    needed = {i.name for m in models.values() for i in m.graph.input if i.name in weights}
    places = {}
    with file.open("wb") as out:
        for name in sorted(needed):
            out.write(b"\0" * (-out.tell() % 4096))  # a page starts here, so that it can be mapped
            begin, data = out.tell(), _bytes(weights[name])
            out.write(data)
            places[name] = ("location", file.name), ("offset", begin), ("length", len(data))
    for path, model in models.items():
        for entry in _initializers(model, weights):
            entry.data_location = TensorProto.EXTERNAL
            for key, value in places[entry.name]:
                entry.external_data.add(key=key, value=str(value))
        onnx.save(model, str(path))


def save_with_weights(model: ModelProto, graph: nn.Module, path: Path) -> None:
    """Write a model of `onnx_graph` as one file.

    Written in protobuf's wire format weight by weight: protobuf would copy the message four times.
    """
    weights = weights_of(graph)
    entries = list(_initializers(model, weights))
    parts = []
    for entry in entries:
        data = _bytes(weights[entry.name])
        head = entry.SerializeToString() + _field(TensorProto.RAW_DATA_FIELD_NUMBER, len(data))
        number, size = GraphProto.INITIALIZER_FIELD_NUMBER, len(head) + len(data)
        parts += [_field(number, size) + head, data]
    del model.graph.initializer[len(model.graph.initializer) - len(entries) :]
    rest = model.graph.SerializeToString()
    model.ClearField("graph")
    size = len(rest) + sum(map(len, parts))
    start = model.SerializeToString() + _field(ModelProto.GRAPH_FIELD_NUMBER, size)
    with path.open("wb") as out:
        out.writelines([start, rest, *parts])


def _field(number: int, size: int) -> bytes:
    """The bytes before a field of a number of bytes, in protobuf's wire format."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _initializers(model: ModelProto, weights: dict[str, Tensor]) -> Iterator[TensorProto]:
    """Turn inputs that are weights into initializers; the caller adds their values."""
    types = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64}
    needed = [i.name for i in model.graph.input if i.name in weights]
    _keep_inputs(model, lambda name: name not in weights)
    for name in needed:
        tensor = weights[name]
        yield model.graph.initializer.add(
            name=name, data_type=types[tensor.dtype], dims=tensor.shape
        )


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.contiguous().reshape(-1).numpy()
    return memoryview(array).cast("B")
