"""Triton's `onnxruntime` backend in Python, for servers that come without the native one."""

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.serving.kernel_file import kernel_files, load_kernel_file
from ensemble.serving.own_server import end_with_it
from ensemble.serving.stand_in.answers import Answering, exported_facts
from ensemble.serving.stand_in.served_model import ServedModel


class TritonPythonModel:
    """Serves `<version>/model.onnx`; inputs and outputs are those of the graph, by name.

    Config parameters: `intra_op_thread_count`, `inter_op_thread_count` (0: ONNX Runtime
    chooses) and `execution_mode` (0: sequential, 1: parallel), as in the native backend; and
    `KERNELS_FILENAME`, see `ensemble.serving.kernel_file`.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph, and refuse one that is not what config.pbtxt says."""
        end_with_it()
        model = ServedModel.from_args(args, "model.onnx")
        facts = exported_facts(model, kernel_files(model))
        run = load_kernel_file(model, pb_utils.Logger.log_info)
        if run is None:
            from ensemble.serving.stand_in.onnx_model import OnnxModel  # only where it serves

            run = OnnxModel(model)
        self.answers = Answering(model, run, facts)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one batch, with one run of the graph."""
        return self.answers(requests)

    def finalize(self) -> None:
        """End."""
        self.answers.close()
