"""Compares a large language model in float32 while its weights stay as they are stored.

In float32 S2-Pro would take 18 GB, and the comparison needs it twice. So the weights stay mapped in
16 bits, and each matrix is converted when it is used; nothing else differs from a comparison of
the whole. The last matrix that was converted is in memory, and the embedding.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def computing_in_float32(model: Model) -> Model:
    """Make a model with weights of 16 bits compute as if it had been converted to float32.

    Vectors and tables are converted at once, matrices for each call, the rows of embeddings as
    they are looked up.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                module._buffers[name] = buffer.float()
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _module, _inputs, output: output.float())
            continue
        matrices = {}
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                matrices[name] = parameter
            else:
                parameter.data = parameter.data.float()
        if matrices:
            _convert_in_calls(module, matrices)
    return model


def _convert_in_calls(module: nn.Module, matrices: dict[str, nn.Parameter]) -> None:
    def convert(_module: nn.Module, _inputs: Any) -> None:
        for name, stored in matrices.items():
            module._parameters[name] = nn.Parameter(stored.float(), requires_grad=False)

    def restore(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        module._parameters.update(matrices)

    module.register_forward_pre_hook(convert)
    module.register_forward_hook(restore)


def with_float32_head(genuine: Any) -> Any:
    """Make a reference model with a tied head compute in float32; the head is the embedding."""
    weight: Tensor = genuine.embeddings.weight
    computing_in_float32(genuine)
    genuine.embeddings.weight = nn.Parameter(weight.float(), requires_grad=False)
    return genuine


def is_large(genuine: Any) -> bool:
    """Whether a family's `load_llama` has left a model as it is stored."""
    return next(genuine.parameters()).dtype != torch.float32
