"""Compares one parsed config.pbtxt with the contract, an ensemble's wiring included."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tritonclient.grpc import model_config_pb2

from ensemble.contract import tensors as contract
from ensemble.contract.artefact import FILE_OF_BACKEND

CONTRACT = "ensemble/contract/tensors.py"
# The module makes its classes when it is imported, so pyright sees none of them.
ModelConfig: Any = vars(model_config_pb2)["ModelConfig"]
_DataType: Any = vars(model_config_pb2)["DataType"]


def data_type(tensor: Any) -> str:
    """The type of a configured tensor, as in config.pbtxt without `TYPE_`."""
    return _DataType.Name(tensor.data_type).removeprefix("TYPE_")


def config_differences(
    name: str, config: Any, models: Mapping[str, contract.Signature]
) -> Iterator[str]:
    """Compare one parsed config.pbtxt of a model with the contract."""
    model = models[name]
    if config.name not in ("", name):
        yield f"name is {config.name}, the folder's {name}"
    yield from _tensor_differences("input", config.input, model.inputs)
    outputs = model.outputs
    if not model.inputs:  # Triton has no batch then, so the axis is among the dims
        outputs = tuple(replace(t, dims=(contract.ANY, *t.dims)) for t in outputs)
    yield from _tensor_differences("output", config.output, outputs)
    if config.max_batch_size < 1 and model.inputs:
        yield "max_batch_size is not given; the contract's dims are without the batch axis"
    if config.platform == "ensemble":
        yield from _step_differences(config, model, models)
    elif config.backend not in FILE_OF_BACKEND:
        yield f"backend is {config.backend!r}, expected one of {', '.join(FILE_OF_BACKEND)}"
    elif not config.instance_group:
        yield "instance_group is not given; the default differs between backends"


def _tensor_differences(
    direction: str, configured: Any, wanted: tuple[contract.Tensor, ...]
) -> Iterator[str]:
    names, expected = [t.name for t in configured], [t.name for t in wanted]
    if names != expected:
        yield f"{direction}s are {', '.join(names)}; in {CONTRACT} {', '.join(expected)}"
    by_name = {t.name: t for t in wanted}
    for tensor in (t for t in configured if t.name in by_name):
        want = by_name[tensor.name]
        optional = direction == "input" and tensor.optional
        dtype = data_type(tensor).replace("STRING", "BYTES")  # the wire's word for it
        have = contract.Tensor(tensor.name, dtype, tuple(tensor.dims), optional)
        if have != want:
            yield f"{direction} {_described(have)}; in {CONTRACT} {_described(want)}"


def _described(tensor: contract.Tensor) -> str:
    optional = " optional" if tensor.optional else ""
    return f"{tensor.name} is{optional} {tensor.dtype} {list(tensor.dims)}"


def _step_differences(
    config: Any, model: contract.Signature, models: Mapping[str, contract.Signature]
) -> Iterator[str]:
    """Check an ensemble's wiring: every tensor comes from somewhere, and fits where it goes."""
    known = {t.name: t for t in model.inputs}
    used: set[str] = set()
    for step in config.ensemble_scheduling.step:
        if step.model_name not in models:
            yield f"step {step.model_name} is not in {CONTRACT}"
            continue
        model_of_step = models[step.model_name]
        inputs = {t.name: t for t in model_of_step.inputs}
        outputs = {t.name: t for t in model_of_step.outputs}
        for key in sorted(inputs.keys() - step.input_map.keys()):
            if contract.INSTEAD_OF.get(key, "") in step.input_map:
                continue
            yield f"step {step.model_name} does not map input {key}"
        for key in sorted({*step.input_map} - inputs.keys()):
            yield f"step {step.model_name} maps input {key}, which that model does not have"
        for key in sorted({*step.output_map} - outputs.keys()):
            yield f"step {step.model_name} maps output {key}, which that model does not have"
        for key, value in step.input_map.items():
            used.add(value)
            if value not in known:
                yield f"step {step.model_name} takes {value}, which no earlier step gives"
            elif key in inputs and not _fits(known[value], inputs[key]):
                source, target = _described(known[value]), _described(inputs[key])
                yield f"step {step.model_name}: {source}, but {target}"
        known |= {value: outputs[k] for k, value in step.output_map.items() if k in outputs}
    yield from (f"input {t.name} goes nowhere" for t in model.inputs if t.name not in used)
    yield from (f"output {t.name} comes from no step" for t in model.outputs if t.name not in known)


def _fits(source: contract.Tensor, target: contract.Tensor) -> bool:
    return (
        source.dtype == target.dtype
        and len(source.dims) == len(target.dims)
        and all(
            s == t or contract.ANY in (s, t) for s, t in zip(source.dims, target.dims, strict=True)
        )
    )
