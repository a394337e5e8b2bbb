"""A TorchScript module by PyTorch, configured as the native backend does it."""

import numpy as np
import torch

from ensemble.contract.artefact import forward_arguments, positions, torchscript_differences
from ensemble.serving.stand_in.batch import Arrays
from ensemble.serving.stand_in.served_model import NUMPY_DTYPES, ServedModel


def set_threads(model: ServedModel) -> None:
    """Set torch's threads as the config says; 0: torch chooses."""
    if threads := model.number("INTRA_OP_THREAD_COUNT"):
        torch.set_num_threads(threads)
    if threads := model.number("INTER_OP_THREAD_COUNT"):
        torch.set_num_interop_threads(threads)


class TorchModel:
    """Called with the inputs of one run, by name; gives its outputs."""

    def __init__(self, model: ServedModel) -> None:
        """Load a module.

        Raises:
            ValueError: If the module is not what the config says.
        """
        signature = self.signature = model.signature
        if any(t.dtype == "STRING" for t in signature.inputs + signature.outputs):
            raise ValueError(f"{model.name}: PyTorch has no tensors of STRING")
        on_gpu = model.gpu is not None
        self.device = torch.device(f"cuda:{model.gpu}" if on_gpu else "cpu")
        self.optimize = not model.flag("DISABLE_OPTIMIZED_EXECUTION", default=on_gpu)
        self.inference_mode = model.flag("INFERENCE_MODE", default=True)
        self.module = torch.jit.load(str(model.artefact), map_location=self.device).eval()
        model.refuse(list(torchscript_differences(signature, self.module)))
        inputs = [t.name for t in signature.inputs]
        outputs = [t.name for t in signature.outputs]
        self.arguments = dict(
            zip(inputs, positions(inputs, forward_arguments(self.module)), strict=True)
        )
        self.results = dict(zip(outputs, positions(outputs), strict=True))

    def __call__(self, inputs: Arrays) -> Arrays:
        ordered = sorted(inputs, key=self.arguments.__getitem__)
        mode = torch.inference_mode() if self.inference_mode else torch.no_grad()
        optimized = torch.jit.optimized_execution  # pyright: ignore[reportPrivateImportUsage]
        with mode, optimized(self.optimize):
            results = self.module(*(self._to_torch(inputs[name]) for name in ordered))
        if isinstance(results, torch.Tensor):
            results = (results,)
        outputs: Arrays = {}
        for tensor in self.signature.outputs:
            array = results[self.results[tensor.name]].detach().cpu().numpy()
            if array.dtype != NUMPY_DTYPES[tensor.dtype]:
                raise TypeError(
                    f"output {tensor.name} is {array.dtype}, in config.pbtxt {tensor.dtype}"
                )
            outputs[tensor.name] = np.ascontiguousarray(array)
        return outputs

    def _to_torch(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
