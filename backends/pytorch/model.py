"""Triton's `pytorch` backend in Python, for servers that come without the native one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from ensemble.contract.artefact import forward_arguments, positions, torchscript_differences
from ensemble.serving.kernel_file import Run, load_compiled
from ensemble.serving.stand_in import NUMPY_DTYPES, Arrays, ServedModel, run_batch


class TritonPythonModel:
    """Serves `<version>/model.pt`, a TorchScript module.

    Inputs go to the arguments of `forward` by name, else by `NAME__INDEX`, else in the order of
    config.pbtxt; outputs come by `NAME__INDEX`, else in that order. Config parameters, as in the
    native backend: `DISABLE_OPTIMIZED_EXECUTION`, `INFERENCE_MODE`, `INTRA_OP_THREAD_COUNT`,
    `INTER_OP_THREAD_COUNT` (0: PyTorch chooses); and `COMPILED_FILENAME`, of
    `ensemble.serving.kernel_file`.
    On a GPU execution is not optimized by default: for each new shape the fuser compiles, for
    seconds or, in a loop, minutes.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the module, and refuse one that is not what config.pbtxt says."""
        self.model = model = ServedModel.from_args(args, "model.pt")
        if any(t.dtype == "STRING" for t in model.signature.inputs + model.signature.outputs):
            raise ValueError(f"{model.name}: PyTorch has no tensors of STRING")
        self.device = torch.device("cpu" if model.gpu is None else f"cuda:{model.gpu}")
        on_gpu = model.gpu is not None
        self.optimize = not model.flag("DISABLE_OPTIMIZED_EXECUTION", default=on_gpu)
        self.inference_mode = model.flag("INFERENCE_MODE", default=True)
        if threads := model.number("INTRA_OP_THREAD_COUNT"):
            torch.set_num_threads(threads)
        if threads := model.number("INTER_OP_THREAD_COUNT"):
            torch.set_num_interop_threads(threads)
        self.run = load_compiled(model, pb_utils.Logger.log_info) or self._load(model)

    def _load(self, model: ServedModel) -> Run:
        self.module = torch.jit.load(str(model.artefact), map_location=self.device).eval()
        model.refuse(list(torchscript_differences(model.signature, self.module)))
        inputs = [t.name for t in model.signature.inputs]
        outputs = [t.name for t in model.signature.outputs]
        self.arguments = dict(
            zip(inputs, positions(inputs, forward_arguments(self.module)), strict=True)
        )
        self.results = dict(zip(outputs, positions(outputs), strict=True))
        return self._run

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one batch, with one call of the module."""
        arrays = [{t.name(): t.as_numpy() for t in request.inputs()} for request in requests]
        return [self._response(r) for r in run_batch(self.model, arrays, self.run)]

    def _run(self, inputs: Arrays) -> Arrays:
        ordered = sorted(inputs, key=self.arguments.__getitem__)
        mode = torch.inference_mode() if self.inference_mode else torch.no_grad()
        optimized = torch.jit.optimized_execution  # pyright: ignore[reportPrivateImportUsage]
        with mode, optimized(self.optimize):
            results = self.module(*(self._to_torch(inputs[name]) for name in ordered))
        if isinstance(results, torch.Tensor):
            results = (results,)
        outputs: Arrays = {}
        for tensor in self.model.signature.outputs:
            array = results[self.results[tensor.name]].detach().cpu().numpy()
            if array.dtype != NUMPY_DTYPES[tensor.dtype]:
                raise TypeError(
                    f"output {tensor.name} is {array.dtype}, in config.pbtxt {tensor.dtype}"
                )
            outputs[tensor.name] = np.ascontiguousarray(array)
        return outputs

    def _to_torch(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _response(self, result: Arrays | Exception) -> Any:
        if isinstance(result, Exception):
            message = f"{self.model.name}: {type(result).__name__}: {result}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in result.items()])
