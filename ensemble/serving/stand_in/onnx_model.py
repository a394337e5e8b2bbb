"""An ONNX graph by ONNX Runtime, configured as the native backend does it."""

from typing import Any

import numpy as np
import onnxruntime

from ensemble.contract.artefact import onnx_differences, onnx_signature
from ensemble.serving.stand_in.batch import Arrays
from ensemble.serving.stand_in.served_model import ServedModel

# `optimization { graph { level } }`, read as the native backend reads it.
_GRAPH_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_ERRORS_ONLY = 3  # ONNX Runtime's log severity; the export has seen its warnings
_decode = np.vectorize(bytes.decode, otypes=[np.object_])
_encode = np.vectorize(str.encode, otypes=[np.object_])


class OnnxModel:
    """Called with the inputs of one run, by name; gives its outputs."""

    def __init__(self, model: ServedModel) -> None:
        """Load a graph.

        Raises:
            RuntimeError: If a GPU is asked for and ONNX Runtime cannot use it.
            ValueError: If the graph is not what the config says.
        """
        self.signature = model.signature
        self.session = onnxruntime.InferenceSession(
            str(model.artefact), _session_options(model), _providers(model)
        )
        found = self.session.get_providers()
        if model.gpu is not None and "CUDAExecutionProvider" not in found:
            raise RuntimeError(
                f"{model.name}: KIND_GPU, but ONNX Runtime offers only {', '.join(found)}. "
                "Install the CUDA and cuDNN that onnxruntime-gpu asks for, or serve PROFILE=cpu"
            )
        model.refuse(list(onnx_differences(model.signature, onnx_signature(self.session))))

    def __call__(self, inputs: Arrays) -> Arrays:
        for tensor in self.signature.inputs:
            if tensor.dtype == "STRING":
                inputs[tensor.name] = _decode(inputs[tensor.name])
        names = [t.name for t in self.signature.outputs]
        outputs: dict[str, Any] = dict(zip(names, self.session.run(names, inputs), strict=True))
        for tensor in self.signature.outputs:
            if tensor.dtype == "STRING":
                outputs[tensor.name] = _encode(outputs[tensor.name])
        return outputs


def _session_options(model: ServedModel) -> onnxruntime.SessionOptions:
    if model.graph_level not in _GRAPH_LEVELS:
        raise ValueError(f"{model.name}: graph level {model.graph_level}, expected -1, 0, 1 or 2")
    mode = model.number("execution_mode")
    if mode not in (0, 1):
        raise ValueError(f"{model.name}: execution_mode {mode}, expected 0 or 1")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _GRAPH_LEVELS[model.graph_level]
    options.execution_mode = (
        onnxruntime.ExecutionMode.ORT_PARALLEL if mode else onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    )
    options.intra_op_num_threads = model.number("intra_op_thread_count")
    options.inter_op_num_threads = model.number("inter_op_thread_count")
    options.log_severity_level = _ERRORS_ONLY
    # The machine is shared with the other stages: waiting threads sleep instead of spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(model: ServedModel) -> list[Any]:
    if model.gpu is None:
        return ["CPUExecutionProvider"]
    onnxruntime.preload_dlls()  # CUDA and cuDNN from the nvidia-* wheels, where they are installed
    # TF32 would give other codes, and windows that do not join.
    exact = {"device_id": model.gpu, "use_tf32": 0}
    return [("CUDAExecutionProvider", exact), "CPUExecutionProvider"]
