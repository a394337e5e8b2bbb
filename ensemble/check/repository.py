"""Compares the contract with every config.pbtxt and every exported artefact of a repository.

It gathers all differences, so that one run shows all there is to fix.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ensemble.check.config import CONTRACT, ModelConfig, config_differences, data_type
from ensemble.check.profiles import profile_differences
from ensemble.contract import artefact, manifest
from ensemble.contract import tensors as contract

_COMMITTED = Path(__file__).resolve().parents[2] / "model_repository"


def differences(
    repository: Path, models: Mapping[str, contract.Signature] = contract.MODELS
) -> list[str]:
    """Compare a model repository with the contract.

    Args:
        repository: The folder that tritonserver is pointed at.
        models: The contract's table.

    Returns:
        One line per difference, each beginning with the file it is in.
    """
    folders = {p.name for p in repository.iterdir() if p.is_dir()}
    found = [f"{repository / name}: not in {CONTRACT}" for name in sorted(folders - models.keys())]
    found += [f"{repository / name}: missing" for name in sorted(models.keys() - folders)]
    for name in sorted(folders & models.keys()):
        found += _model_differences(repository / name, models)
    found += profile_differences(repository)
    return [*found, *filter(None, [manifest.other_version(repository, _COMMITTED)])]


def config_paths(model: Path) -> list[Path]:
    """A model's config.pbtxt, then those of its profiles."""
    return [model / "config.pbtxt", *sorted(model.glob("configs/*.pbtxt"))]


def exported(repository: Path) -> list[Path]:
    """The artefacts that a repository has."""
    return sorted(p for kind in ("onnx", "pt") for p in repository.glob(f"*/*/model.{kind}"))


def _model_differences(folder: Path, models: Mapping[str, contract.Signature]) -> Iterator[str]:
    versions = [p for p in folder.iterdir() if p.name.isdigit()]
    if not versions:
        yield f"{folder}: no version folder; git drops empty ones, so keep a 1/.gitkeep"
    for stray in folder.iterdir():
        if stray.is_dir() and not stray.name.isdigit() and stray.name != "configs":
            yield f"{stray}: neither a version nor configs"
    for version in (v for v in versions if (v / manifest.FILE_NAME).is_file()):
        try:
            manifest.refuse_changed(version)
        except ValueError as error:
            yield str(error)
    for path in config_paths(folder):
        try:
            config = text_format.Parse(path.read_text("utf-8"), ModelConfig())
        except (OSError, text_format.ParseError) as error:
            yield f"{path}: {error}"
            continue
        for difference in config_differences(folder.name, config, models):
            yield f"{path}: {difference}"
        for version in versions:
            yield from _artefact_differences(version, path, config)


def _artefact_differences(version: Path, config_path: Path, config: Any) -> Iterator[str]:
    """Compare an exported graph with one config that serves it, if it has been exported."""
    filename = config.default_model_filename or artefact.FILE_OF_BACKEND.get(config.backend, "")
    path = version / filename
    if not filename or not path.is_file():
        if config.backend == "python":
            yield f"{path}: missing"
        return
    if config.backend == "python":
        return
    configured = contract.Signature(
        *(
            tuple(
                contract.Tensor(
                    t.name,
                    data_type(t),
                    (contract.ANY, *t.dims) if config.max_batch_size else tuple(t.dims),
                )
                for t in tensors
            )
            for tensors in (config.input, config.output)
        )
    )
    compare = _compare_onnx if config.backend == "onnxruntime" else _compare_torchscript
    try:
        yield from (f"{path}: {d} ({config_path})" for d in compare(configured, path))
    except Exception as error:  # a file that cannot be read is a difference like any other
        yield f"{path}: cannot be read: {error}"


def _compare_onnx(configured: contract.Signature, path: Path) -> Iterator[str]:
    import onnxruntime  # heavy, and needed only where something is exported

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return artefact.onnx_differences(configured, artefact.onnx_signature(session))


def _compare_torchscript(configured: contract.Signature, path: Path) -> Iterator[str]:
    import torch

    module = torch.jit.load(str(path), map_location="cpu")
    return artefact.torchscript_differences(configured, module)
