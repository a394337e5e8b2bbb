"""The codec's artefacts as plain runtimes take them, which Triton's native backends are."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format

from ensemble.check.config import ModelConfig, data_type
from ensemble.check.repository import config_paths
from ensemble.serving.stand_in.served_model import NUMPY_DTYPES

CODEC = ("fish_encoder", "fish_decoder")
_ONNX_TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}


def configs(repository: Path, name: str) -> list:
    return [
        text_format.Parse(path.read_text(), ModelConfig())
        for path in config_paths(repository / name)
    ]


def example(config, frames: int) -> dict[str, np.ndarray]:
    """Inputs of two rows, of the types and ranks that the config says."""
    values = {
        "waveform": np.zeros((2, frames * 2048), np.float32),
        "chunk_frames": np.full((2, 1), 4),
        "codes": np.ones((2, 10, frames), np.int64),
        "new_frames": np.tile(np.arange(1, frames), (2, 1)),
    }
    for tensor in config.input:
        value = values[tensor.name]
        assert value.dtype == NUMPY_DTYPES[data_type(tensor)]
        assert value.ndim == 1 + len(tensor.dims)
    return {t.name: values[t.name] for t in config.input}


def assert_fits(config, outputs: dict[str, np.ndarray], frames: int) -> None:
    shapes = {"codes": (2, 10, frames), "audio": (2, (frames - 1) * 2048)}
    assert list(outputs) == [t.name for t in config.output]
    for tensor in config.output:
        array = outputs[tensor.name]
        assert array.dtype == NUMPY_DTYPES[data_type(tensor)]
        assert array.shape == shapes[tensor.name]
        assert len(array.shape) == 1 + len(tensor.dims)


@pytest.mark.torch
@pytest.mark.parametrize("name", CODEC)
def test_plain_onnx_runtime_takes_the_artefact(repository, name) -> None:
    """As Triton's own backend does: no custom operators, and what every config says."""
    path = repository / name / "1" / "model.onnx"
    graph = onnx.load(path)
    onnx.checker.check_model(str(path))
    assert graph.ir_version <= 8
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert {node.domain for node in graph.graph.node} == {""} and not graph.functions
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for config in configs(repository, name):
        for nodes, configured in (
            (session.get_inputs(), config.input),
            (session.get_outputs(), config.output),
        ):
            have = [(n.name, _ONNX_TYPES[n.type], len(n.shape)) for n in nodes]
            assert have == [(t.name, data_type(t), 1 + len(t.dims)) for t in configured]
            for node in nodes:  # no size of the example that it was traced with
                assert not any(isinstance(axis, int) for axis in node.shape)
        for frames in (3, 11):
            names = [t.name for t in config.output]
            outputs = session.run(names, example(config, frames))
            assert_fits(config, dict(zip(names, outputs, strict=True)), frames)


@pytest.mark.torch
@pytest.mark.parametrize("name", CODEC)
def test_torchscript_has_no_bounds_that_stay_on_the_cpu(repository, name) -> None:
    """A GPU's clamp refuses a traced size, which is a tensor on the CPU whatever the device."""
    graph = torch.jit.load(str(repository / name / "1" / "model.pt")).inlined_graph
    for node in graph.findAllNodes("aten::clamp"):
        bounds = [str(i.type()) for i in list(node.inputs())[1:]]
        assert not any("Tensor" in b or "Long" in b for b in bounds), node


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", CODEC)
def test_plain_torchscript_takes_the_artefact(repository, name) -> None:
    """Arguments by the config's names, which is how Triton's own backend finds them."""
    module = torch.jit.load(str(repository / name / "1" / "model.pt"))
    arguments = [a.name for a in module.forward.schema.arguments if a.name != "self"]
    for config in configs(repository, name):
        assert arguments == [t.name for t in config.input]
        (output,) = config.output
        for frames in (3, 11):
            inputs = [torch.from_numpy(x) for x in example(config, frames).values()]
            with torch.inference_mode():
                result = module(*inputs)
            assert isinstance(result, torch.Tensor)
            assert_fits(config, {output.name: result.numpy()}, frames)
