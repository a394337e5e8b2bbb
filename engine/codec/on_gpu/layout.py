"""The decoder's weights as a GPU's kernels take them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.codec.layers import phases
from engine.kernels.rounded import Conv, conv_of


class Layout(NamedTuple):
    """Lays out weights, each when it is asked for.

    Attributes:
        tensors: Of a `DecoderGraph`, by name, float32.
        dtype: Half precision of either kind.
        split: Whether operands are sums of two such numbers, and products of three.
    """

    tensors: Mapping[str, Tensor]
    dtype: torch.dtype
    split: bool

    def layer(self, layer: Mapping[str, Any]) -> dict[str, Any]:
        """Weights of one of the layers of `structure_of`."""
        kind, name = layer["kind"], layer["name"]
        if kind == "Snake":
            return {"before": self.alpha(name)}
        if kind == "Residual":
            return {
                "before": self.alpha(f"{name}.block.0"),
                "wide": self.conv(f"{name}.block.1.conv", layer["dilation"]),
                "snake": self.alpha(f"{name}.block.2"),
                "narrow": self.conv(f"{name}.block.3.conv"),
            }
        if kind == "ConvNeXt":
            depthwise = f"{name}.depthwise.conv"
            return {
                "taps": self.tensors[f"{depthwise}.weight"][:, 0].t().contiguous(),
                "bias": self.tensors[f"{depthwise}.bias"],
                "norm": [self.tensors[f"{name}.norm.{part}"] for part in ("weight", "bias")],
                "widen": self.linear(f"{name}.widen"),
                "narrow": self.linear(f"{name}.narrow"),
            }
        if kind == "CausalTransposedConv":
            return {"conv": self.transposed(f"{name}.conv", layer["stride"])}
        return {"conv": self.conv(f"{name}.conv", layer["dilation"])} if kind != "Tanh" else {}

    def block(self, i: int) -> dict[str, Any]:
        """Weights of one layer of the transformer."""
        name = f"transformer.layers.{i}"
        gate_up = [self.tensors[f"{name}.{part}.weight"] for part in ("gate", "up")]
        return {
            "attention_norm": self.tensors[f"{name}.attention_norm.weight"],
            "wqkv": self.linear(f"{name}.attention.wqkv"),
            "wo": self.linear(f"{name}.attention.wo"),
            "ffn_norm": self.tensors[f"{name}.ffn_norm.weight"],
            "gate_up": self._rounded(torch.cat(gate_up)[..., None], None),
            "down": self.linear(f"{name}.down"),
        }

    def optional(self, name: str) -> Conv | None:
        """A linear layer that may be left out."""
        return self.linear(name) if f"{name}.weight" in self.tensors else None

    def linear(self, name: str) -> Conv:
        """A linear layer: a convolution of one tap."""
        weight = self.tensors[f"{name}.weight"][..., None]
        return self._rounded(weight, self.tensors.get(f"{name}.bias"))

    def conv(self, name: str, dilation: int = 1) -> Conv:
        """A convolution."""
        weight, bias = (self.tensors[f"{name}.{part}"] for part in ("weight", "bias"))
        return self._rounded(weight, bias, dilation)

    def transposed(self, name: str, stride: int) -> Conv:
        """A transposed convolution as a plain one, see `phases`."""
        weight, bias = (self.tensors[f"{name}.{part}"] for part in ("weight", "bias"))
        return self._rounded(phases(weight, stride), bias.repeat(stride), times=stride)

    def alpha(self, name: str) -> Tensor:
        """Factors of a Snake."""
        return self.tensors[f"{name}.alpha"].flatten()

    def _rounded(
        self, weight: Tensor, bias: Tensor | None, dilation: int = 1, times: int = 1
    ) -> Conv:
        return conv_of(weight, bias, self.dtype, self.split, dilation, times)
