"""The codec's configuration in upstream's Hydra format, and the empty codec it describes."""

import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from families.fish_s1.upstream import (
    DAC,
    DownsampleResidualVectorQuantize,
    DualARModelArgs,
    ModelArgs,
    WindowLimitedTransformer,
    names_and_shapes,
)
from families.registry import CheckpointError

# A Hydra file names Python callables to be called, so it is code. These are safe.
_TARGETS = {
    f"{target.__module__}.{target.__qualname__}"
    for target in (DAC, ModelArgs, DownsampleResidualVectorQuantize, WindowLimitedTransformer)
}
_TOP_CODES = 1024  # upstream samples a residual code among the first 1024 only


def packaged_config() -> DictConfig:
    """S1-mini's codec, as fish-speech 0.1.0 ships it."""
    text = files("fish_speech").joinpath("configs/modded_dac_vq.yaml").read_text(encoding="utf-8")
    return _parsed(text, "modded_dac_vq.yaml")


def empty_codec(path: Path) -> DAC:
    """Build upstream's codec on the meta device, without memory or random numbers.

    Args:
        path: The configuration; upstream's own where there is no such file.

    Raises:
        CheckpointError: If the file is not a configuration of this codec.
    """
    config = _parsed(path.read_text(encoding="utf-8"), path.name) if path.is_file() else None
    return build_codec(packaged_config() if config is None else config, path.name)


def build_codec(config: DictConfig | ListConfig, name: str = "codec.yaml") -> DAC:
    """Build the codec of a configuration that has been read; `name` is for messages."""
    try:
        with names_and_shapes(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the older weight norm, by design
            codec = instantiate(config)
    except (InstantiationException, OmegaConfBaseException) as error:
        raise CheckpointError(f"{name}: upstream cannot build this codec ({error})") from error
    if not isinstance(codec, DAC):
        raise CheckpointError(f"{name}: describes a {type(codec).__name__}, expected a DAC")
    return codec


def codec_facts_fault(codec: DAC, config: DualARModelArgs) -> str | None:
    """Why the codec does not fit the transformers, or None."""
    quantizer: Any = codec.quantizer
    books = 1 + quantizer.quantizer.n_codebooks
    if books != config.num_codebooks:
        return (
            f"codec: {books} codebooks, but config.json has num_codebooks {config.num_codebooks}. "
            "Use the codec that came with model.pth"
        )
    semantic = quantizer.semantic_quantizer.codebook_size
    residual = quantizer.quantizer.codebook_size
    if semantic != config.codebook_size or residual < min(_TOP_CODES, config.codebook_size):
        return (
            f"codec: {semantic} semantic and {residual} residual codes, but config.json has "
            f"codebook_size {config.codebook_size}. Use the codec that came with model.pth"
        )
    return None


def _parsed(text: str, name: str) -> DictConfig:
    try:
        config = OmegaConf.create(text)
        OmegaConf.resolve(config)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise CheckpointError(f"{name}: is not YAML ({error})") from error
    if not isinstance(config, DictConfig):
        raise CheckpointError(f"{name}: expected a codec in upstream's Hydra format")
    if foreign := set(_targets(OmegaConf.to_container(config))) - _TARGETS:
        raise CheckpointError(
            f"{name}: asks to call {', '.join(sorted(foreign))}, "
            f"expected only {', '.join(sorted(_TARGETS))}"
        )
    return config


def _targets(node: object) -> Iterator[str]:
    """Every callable that the configuration names, at any depth."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)
