"""Triton's `pytorch` backend in Python, for servers that come without the native one."""

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.serving.kernel_file import kernel_files, load_kernel_file
from ensemble.serving.on_gpu import load_on_gpu
from ensemble.serving.own_server import end_with_it
from ensemble.serving.stand_in.answers import Answering, exported_facts
from ensemble.serving.stand_in.served_model import ServedModel
from ensemble.serving.stand_in.torch_model import TorchModel, set_threads


class TritonPythonModel:
    """Serves `<version>/model.pt`, a TorchScript module.

    Inputs go to the arguments of `forward` by name, else by `NAME__INDEX`, else in the order of
    config.pbtxt; outputs come by `NAME__INDEX`, else in that order. Config parameters, as in the
    native backend: `DISABLE_OPTIMIZED_EXECUTION`, `INFERENCE_MODE`, `INTRA_OP_THREAD_COUNT`,
    `INTER_OP_THREAD_COUNT` (0: PyTorch chooses); and `KERNELS_FILENAME`, see
    `ensemble.serving.kernel_file`.
    On a GPU the codec's decoder is served by kernels where it can be (`ensemble.serving.on_gpu`).
    Execution is not optimized there by default: for each new shape the fuser compiles, for seconds
    or, in a loop, minutes.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the module, and refuse one that is not what config.pbtxt says."""
        end_with_it()
        model = ServedModel.from_args(args, "model.pt")
        facts = exported_facts(model, kernel_files(model))
        set_threads(model)
        log = pb_utils.Logger.log_info
        run = load_kernel_file(model, log) or load_on_gpu(model, log) or TorchModel(model)
        self.answers = Answering(model, run, facts)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one batch, with one call of the module."""
        return self.answers(requests)

    def finalize(self) -> None:
        """End."""
        self.answers.close()
