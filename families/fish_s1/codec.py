"""Loads the codec, which S1 and S2 have in common, strictly, into the genuine upstream class."""

from pathlib import Path

import torch
from torch.nn.utils.weight_norm import WeightNorm

from families.fish_s1.codec_config import codec_facts_fault, empty_codec
from families.fish_s1.upstream import (
    DAC,
    DualARModelArgs,
    WindowLimitedTransformer,
    codec_freqs_cis,
)
from families.fish_s1.weights import check, read_codec
from families.registry import Checkpoint, CheckpointError

CODEC_CONFIG = "codec.yaml"  # upstream's own configuration where there is none


def check_codec(path: Path, config: DualARModelArgs) -> None:
    """Raise a `CheckpointError` if the folder's codec is unusable or not that of the model."""
    codec = empty_codec(path / CODEC_CONFIG)
    if fault := codec_facts_fault(codec, config):
        raise CheckpointError(fault)
    check("codec.pth", read_codec(path / "codec.pth"), codec)


def load_codec(checkpoint: Checkpoint) -> DAC:
    """Load the codec in eval mode, float32, on the CPU.

    Its `causal_mask` tables (16384 x 16384) are left empty: the window-limited transformers are
    always given a mask and never read them.

    Raises:
        CheckpointError: If the weights have changed since the check.
    """
    codec = empty_codec(checkpoint.path / CODEC_CONFIG)
    weights = read_codec(checkpoint.path / "codec.pth")
    check("codec.pth", weights, codec)
    return fill_codec(codec, weights)


@torch.no_grad()
def fill_codec(codec: DAC, weights: dict[str, torch.Tensor]) -> DAC:
    """Give an empty codec its weights, float32, and the tables it makes itself."""
    tables = {name for name, _ in codec.named_buffers()}
    weights = {n: t if n in tables else t.float() for n, t in weights.items()}
    codec.load_state_dict(weights, strict=False, assign=True)
    for module in codec.modules():
        if isinstance(module, WindowLimitedTransformer):
            config = module.config
            if module.freqs_cis.is_meta:
                module.freqs_cis = codec_freqs_cis(
                    config.block_size, config.head_dim, config.rope_base
                )
            module.causal_mask = torch.empty(0, 0, dtype=torch.bool)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                hook(module, None)  # the older weight norm: makes `weight`, which is still empty
    return codec.requires_grad_(False).eval()
