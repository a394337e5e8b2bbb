"""What an exported graph takes and gives, and where that differs from what a config says.

Used when a backend loads an artefact and by `python -m ensemble.check`. As strict as the native
backends, so that a repository that serves here also serves on NVIDIA's image.

Source: triton-inference-server onnxruntime_backend src/onnxruntime.cc (ValidateInputs,
ValidateOutputs) and pytorch_backend src/pt/model_instance_state.cc (GetNamingConvention).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ensemble.contract.tensors import ANY, Signature, Tensor

FILE_OF_BACKEND = {"onnxruntime": "model.onnx", "pytorch": "model.pt", "python": "model.py"}
_ONNX_DTYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "STRING",
    **{f"tensor(int{bits})": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"tensor(uint{bits})": f"UINT{bits}" for bits in (8, 16, 32, 64)},
}


def onnx_signature(session: Any) -> Signature:
    """Read what an `onnxruntime.InferenceSession` takes and gives."""

    def tensor(node: Any) -> Tensor:
        shape = tuple(axis if isinstance(axis, int) else ANY for axis in node.shape)
        return Tensor(node.name, _ONNX_DTYPES.get(node.type) or str(node.type), shape)

    return Signature(
        tuple(tensor(node) for node in session.get_inputs()),
        tuple(tensor(node) for node in session.get_outputs()),
    )


def onnx_differences(configured: Signature, real: Signature) -> Iterator[str]:
    """Say, in one sentence each, where a config and an ONNX graph differ.

    An input axis that the graph leaves open may be fixed by the config; an output's may not.
    """
    for direction, wanted, found in (
        ("input", configured.inputs, real.inputs),
        ("output", configured.outputs, real.outputs),
    ):
        have = {t.name: t for t in found}
        names = sorted(t.name for t in wanted)
        if names != sorted(have):
            yield f"the graph's {direction}s are {sorted(have)}, the config's {names}"
        for want in (t for t in wanted if t.name in have):
            got = have[want.name]
            if got.dtype != want.dtype:
                yield f"{direction} {want.name} is {got.dtype}, in the config {want.dtype}"
            if not _dims_agree(want.dims, got.dims, exact=direction == "output"):
                yield f"{direction} {want.name} is {got.dims}, in the config {want.dims}"


def _dims_agree(configured: tuple[int, ...], real: tuple[int, ...], *, exact: bool) -> bool:
    return len(configured) == len(real) and all(
        r == c or (r == ANY and not exact) for c, r in zip(configured, real, strict=True)
    )


def forward_arguments(module: Any) -> list[str]:
    """Names of the arguments of a TorchScript module's `forward`."""
    return [a.name for a in module.forward.schema.arguments if a.name != "self"]


def positions(names: Sequence[str], arguments: Iterable[str] = ()) -> list[int]:
    """Position of each tensor of a config in a TorchScript call or in its result.

    Args:
        names: The config's, in order.
        arguments: Those of `forward`; none for outputs.

    Returns:
        For each name its position: by argument name, else by `NAME__INDEX`, else in order.
    """
    order = list(arguments)
    if all(name in order for name in names):
        return [order.index(name) for name in names]
    indices = [name.partition("__")[2] for name in names]
    if all(index.isdigit() for index in indices):
        return [int(index) for index in indices]
    return list(range(len(names)))


def torchscript_differences(configured: Signature, module: Any) -> Iterator[str]:
    """Say where a config and a TorchScript module differ; dtypes show only when it runs."""
    arguments = forward_arguments(module)
    names = [t.name for t in configured.inputs]
    if sorted(positions(names, arguments)) != list(range(len(arguments))):
        yield f"forward takes {arguments}, the config has {names}"
    returned = module.forward.schema.returns[0].type
    count = {"TensorType": 1, "TupleType": len(getattr(returned, "elements", list)())}
    names = [t.name for t in configured.outputs]
    if sorted(positions(names)) != list(range(count.get(returned.kind(), len(names)))):
        yield f"forward returns {returned}, the config has {names}"
