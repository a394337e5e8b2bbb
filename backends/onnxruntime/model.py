"""Triton's `onnxruntime` backend in Python, for servers that come without the native one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

from ensemble.contract.artefact import onnx_differences, onnx_signature
from ensemble.serving.kernel_file import Run, load_compiled
from ensemble.serving.stand_in import Arrays, ServedModel, run_batch

# `optimization { graph { level } }`, read as the native backend reads it.
_GRAPH_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_ERRORS_ONLY = 3  # ONNX Runtime's log severity; what it warns of, the export has seen
_decode = np.vectorize(bytes.decode, otypes=[np.object_])
_encode = np.vectorize(str.encode, otypes=[np.object_])


class TritonPythonModel:
    """Serves `<version>/model.onnx`; inputs and outputs are those of the graph, by name.

    Config parameters: `intra_op_thread_count`, `inter_op_thread_count` (0: ONNX Runtime
    chooses) and `execution_mode` (0: sequential, 1: parallel), as in the native backend; and
    `COMPILED_FILENAME`, of `ensemble.serving.kernel_file`.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph, and refuse one that is not what config.pbtxt says."""
        self.model = model = ServedModel.from_args(args, "model.onnx")
        self.run = load_compiled(model, pb_utils.Logger.log_info) or self._load(model)

    def _load(self, model: ServedModel) -> Run:
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
        return self._run

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one batch, with one run of the graph."""
        arrays = [{t.name(): t.as_numpy() for t in request.inputs()} for request in requests]
        return [self._response(r) for r in run_batch(self.model, arrays, self.run)]

    def _run(self, inputs: Arrays) -> Arrays:
        signature = self.model.signature
        for tensor in signature.inputs:
            if tensor.dtype == "STRING":
                inputs[tensor.name] = _decode(inputs[tensor.name])
        names = [t.name for t in signature.outputs]
        outputs: dict[str, Any] = dict(zip(names, self.session.run(names, inputs), strict=True))
        for tensor in signature.outputs:
            if tensor.dtype == "STRING":
                outputs[tensor.name] = _encode(outputs[tensor.name])
        return outputs

    def _response(self, result: Arrays | Exception) -> Any:
        if isinstance(result, Exception):
            message = f"{self.model.name}: {type(result).__name__}: {result}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in result.items()])


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
    exact = {
        "device_id": model.gpu,
        "use_tf32": 0,
    }  # else codes are others, and windows do not join
    return [("CUDAExecutionProvider", exact), "CPUExecutionProvider"]
