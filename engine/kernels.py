"""The operators of `engine/native`, compiled for this machine, and layers made of them.

Compiled once for each machine and kept in the user's cache; `python -m engine.kernels` does it
beforehand. All activations are float32; weights are float32, bfloat16 or int8, keys and values
float32 or bfloat16. A row's result has the same bits whoever shares its batch.
"""

import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.graphs import FastGraph, LlamaGraphs, SlowGraph
from engine.layers import Past
from engine.weights import BlockShape, LlamaShape, Weights
from ensemble import compiled

_SOURCES = Path(__file__).parent / "native"
_FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-std=c++20", "-fPIC", "-fopenmp"),
    # Sums may be reordered, so that vectors hold their parts, but infinity stays what it is: logits
    # are -inf where a token is forbidden. -ffast-math would take it for any number.
    *("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros"),
    *("-fno-trapping-math", "-fno-math-errno"),
    # Sums begin alike wherever they lie in memory.
    "--param=vect-max-peeling-for-alignment=0",
    "-fvisibility=hidden",
)
_PANEL, _DOT = 32, 4  # as in rows.h
_NO_WINDOW = 2**62
_UNIT_DEPTH = 32  # bfloat16 numbers that matrix units take at a time, in pairs


@functools.cache
def fault() -> str | None:
    """Compile and load the operators; why they cannot be used here, or None."""
    if not compiled.wanted():
        return "FISH_SPEECH_COMPILE is false"
    try:
        path = library()
        if not path.is_file():
            _compile(path)
        torch.ops.load_library(str(path))
    except FileNotFoundError:
        return "there is no C++ compiler (apt-get install g++)"
    except subprocess.CalledProcessError as error:
        return f"g++ failed: {error.stderr.strip().partition(chr(10))[0]}"
    except OSError as error:
        return str(error)
    return None


def library() -> Path:
    """Where the compiled operators are kept: by sources, flags, torch and instructions."""
    said = [path.read_text("utf-8") for path in sorted(_SOURCES.iterdir())]
    said += [*_FLAGS, version("torch"), *sorted(compiled.instructions())]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not os.access(home if home.exists() else home.parent, os.W_OK):
        home = Path(tempfile.gettempdir())
    return home / "voicereel-triton" / f"kernels-{digest}.so"


def _compile(path: Path) -> None:
    root = Path(torch.__file__).parent
    includes = (root / "include", root / "include" / "torch" / "csrc" / "api" / "include")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        finished = Path(folder) / path.name
        command = [
            *(os.environ.get("CXX", "g++"), *_FLAGS, *(f"-isystem{i}" for i in includes)),
            *("-shared", str(_SOURCES / "operators.cpp"), "-o", str(finished)),
            *(f"-L{root / 'lib'}", "-lgomp", "-lc10", "-ltorch_cpu"),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        finished.replace(path)


class Product(nn.Module):
    """Rows times constant weights, with what comes before and after in the same pass.

    Optionally the rows are normed, or are gate and up of a perceptron, before; and a bias and
    another input added after.
    """

    panels: Tensor
    scales: Tensor  # what there is not, has no numbers
    columns: Tensor
    bias: Tensor
    norm: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        norm: Tensor | None = None,
        *,
        eps: float = 0.0,
        gated: bool = False,
        int8: bool = False,
        split: bool = False,
    ) -> None:
        """Args:
        weight: (outputs, depth). What is not float32 has its own products.
        bias, norm: (outputs,) and (depth,).
        eps: Of the norm.
        gated: The rows are gate and up of a perceptron.
        int8: Round it to 8 bits for each output.
        split: In float32, where there are matrix units, as the sum of two bfloat16: 1 in 2^16 off.
        """
        super().__init__()
        self.outputs, depth = weight.shape
        scales, columns = torch.empty(0), torch.empty(0, dtype=torch.int32)
        padding = (0, 0, 0, -self.outputs % _PANEL)
        has_units = depth % _UNIT_DEPTH == 0 and torch.ops.voicereel.has_units()
        if int8 and depth % _DOT == 0:
            scales = weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127
            rounded = (weight.float() / scales[:, None]).round().to(torch.int8)
            columns = 128 * F.pad(rounded, padding).sum(dim=1, dtype=torch.int32)
            panels = F.pad(rounded, padding).view(-1, _PANEL, depth // _DOT, _DOT).transpose(1, 2)
        elif has_units and split and weight.dtype == torch.float32:
            panels = split_panels(F.pad(weight, padding))
        elif has_units and weight.dtype == torch.bfloat16:
            panels = F.pad(weight, padding).view(-1, _PANEL, depth // 2, 2).transpose(1, 2)
        else:
            panels = F.pad(weight, padding).view(-1, _PANEL, depth).transpose(1, 2)
        self.register_buffer("panels", panels.contiguous())
        self.register_buffer("scales", scales)
        self.register_buffer("columns", columns)
        self.register_buffer("bias", torch.empty(0) if bias is None else bias.float())
        self.register_buffer("norm", torch.empty(0) if norm is None else norm.float())
        self.eps, self.gated = eps, gated

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return torch.ops.voicereel.product(
            *(x, self.panels, self.outputs, self.scales, self.columns, self.bias, self.norm),
            *(self.eps, self.gated, added),
        )


def split_panels(weight: Tensor) -> Tensor:
    """Float32 (outputs, depth) -> bfloat16 (panels, steps, 2, 16 pairs of depth, outputs, 2).

    Of each step its nearest bfloat16, and what they lack.
    """
    high = weight.bfloat16()
    parts = torch.stack([high, (weight - high.float()).bfloat16()])
    panels = parts.view(2, -1, _PANEL, weight.shape[1] // _UNIT_DEPTH, _UNIT_DEPTH // 2, 2)
    return panels.permute(1, 3, 0, 4, 2, 5).flatten(3, 4)  # 5 axes


class Layers(nn.Module):
    """Pre-norm attention and gated perceptron, all layers of a transformer in one call."""

    head_norms: Tensor
    outputs: list[int]

    def __init__(self, layers: Iterable[Any], eps: float) -> None:
        """Args:
        layers: `KernelLayer`s of one shape.
        eps: Of all norms.
        """
        super().__init__()
        layers = list(layers)
        self.products = nn.ModuleList(product for layer in layers for product in layer.products)
        self.outputs = [product.outputs for product in layers[0].products]
        norms = [norm for layer in layers for norm in layer.head_norms]
        self.register_buffer("head_norms", torch.stack(norms) if norms else torch.empty(0))
        self.eps = eps

    def forward(
        self,
        x: Tensor,
        past_lengths: Tensor,
        cos_sin: Tensor,
        keys: Tensor,
        values: Tensor,
        begins: Tensor | None = None,
        window: int = _NO_WINDOW,
        shared: Tensor | None = None,
    ) -> Tensor:
        """New positions, float32 (batch, time, dim), behind those cached, into which they go.

        Args:
            x: Their input.
            past_lengths: int64 (batch,).
            cos_sin: float32 (positions, head_dim / 2, 2).
            keys, values: (layers, batch, kv heads, positions, head_dim), with room for new ones.
            begins: int64 (batch,), what the first cached position is called, for its rotation;
                those called less than 0 are not seen. None: 0.
            window: Positions that each sees, itself included.
            shared: See `SlowGraph.extend`.
        """
        return torch.ops.voicereel.layers(
            *(x, past_lengths, cos_sin),
            [product.panels for product in self.products],
            [product.scales for product in self.products],
            [product.columns for product in self.products],
            [product.bias for product in self.products],
            [product.norm for product in self.products],
            *(self.outputs, self.head_norms, self.eps, keys, values, begins, window, shared),
        )


class KernelLayer(nn.Module):
    """The products of a layer: queries, keys and values; attention's output; gate and up; down.

    `head_norms` are the weights of queries' and keys' norms, if there are such.
    """

    def __init__(self, *products: Product, head_norms: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.products, self.head_norms = products, [norm.float() for norm in head_norms]


def kernel_layer(weights: Weights, block: BlockShape, eps: float, int8: bool) -> KernelLayer:
    """Of either transformer."""
    attention, norm = weights.under("attention"), weights["ffn_norm.weight"]
    found = (attention.find(f"{name}.weight") for name in ("q_norm", "k_norm"))
    return KernelLayer(
        Product(
            attention["wqkv.weight"], attention.find("wqkv.bias"),
            weights["attention_norm.weight"], eps=eps, int8=int8,
        ),
        Product(attention["wo.weight"], attention.find("wo.bias"), int8=int8),
        Product(weights["gate_up.weight"], norm=norm, eps=eps, int8=int8),
        Product(weights["down.weight"], gated=True, int8=int8),
        head_norms=[norm for norm in found if norm is not None],
    )  # fmt: skip


class KernelSlow(SlowGraph):
    """`extend`, the only method that serving takes, by kernels."""

    def __init__(self, shape: LlamaShape, *parts: Any) -> None:
        super().__init__(shape, *parts)
        self.stack = Layers(self.layers, shape.norm_eps)

    def entries(self, table: nn.Module, ids: Tensor) -> Tensor:
        return table(ids).float()

    def extend(
        self,
        tokens: Tensor,
        lengths: Tensor,
        past_lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        shared: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, past = self.embed(tokens), (past_lengths, self.cos_sin, keys, values)
        return self.ends(self.stack(x, *past, shared=shared), lengths)


class KernelFast(FastGraph):
    """The fast transformer by kernels; its few keys and values stay float32."""

    def __init__(self, shape: LlamaShape, *parts: Any) -> None:
        super().__init__(shape, *parts)
        self.stack = Layers(self.layers, shape.norm_eps)

    def entries(self, ids: Tensor) -> Tensor:
        return self.embeddings(ids).float()

    def choose(self, *inputs: Tensor) -> Tensor:
        return torch.ops.voicereel.sample(*inputs)

    def advance(self, x: Tensor, begin: int, past: list[Past]) -> tuple[Tensor, list[Past]]:
        if not past:  # of all layers at once
            block, rows = self.block, (len(self.layers), x.shape[0])
            extents = (*rows, block.kv_heads, self.codebooks, block.head_dim)
            past = [(x.new_empty(extents), x.new_empty(extents))]
        lengths = torch.full((x.shape[0],), begin)
        return self.stack(x, lengths, self.cos_sin, *past[0])[:, -1], past


class KernelGraphs(LlamaGraphs):
    """`extend`, `sample_token` and `fast_loop` by kernels."""

    slow_type, fast_type = KernelSlow, KernelFast

    def __init__(self, shape: LlamaShape, weights: Weights, int8: bool = False) -> None:
        def layer(weights: Weights, block: BlockShape, eps: float) -> KernelLayer:
            return kernel_layer(weights, block, eps, int8)

        super().__init__(shape, weights, layer, Product)


if __name__ == "__main__":
    reason = fault()
    print(f"kernels: {reason or library()}")
    raise SystemExit(reason is not None)
