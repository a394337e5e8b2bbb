"""What the decoder's TorchScript does not say of itself: how its weights are to be used.

The export puts it into `model.pt`, where other readers of that file pass it over, so that the
decoder can be built anew on another device from the weights in there (`engine.codec.on_gpu`).
"""

from collections.abc import Iterator
from typing import Any

from engine.codec.decoder import DecoderGraph
from engine.codec.layers import (
    CausalConv,
    CausalTransposedConv,
    ConvNeXt,
    Residual,
    Snake,
    Tanh,
    UnsupportedCodecError,
)
from engine.codec.streaming import LayerWindow
from engine.codec.transformer import WindowTransformer

FILE = "structure.json"  # in model.pt
FORMAT = 1


def structure_of(graph: DecoderGraph) -> dict[str, Any]:
    """Describe a graph in numbers and names of weights, for JSON.

    Raises:
        UnsupportedCodecError: If it has a layer that is built of weights alone.
    """
    names = {id(module): name for name, module in graph.named_modules()}
    return {
        "format": FORMAT,
        "samples_per_frame": graph.samples_per_frame,
        "codebooks": graph.num_codebooks,
        "frames": graph.max_frames,
        "history_frames": graph.history_frames,
        "context_frames": graph.context_frames,
        "transformer": _transformer(graph.transformer),
        "layers": [layer for window in graph.windows for layer in _layers(window, names)],
    }


def _transformer(transformer: Any) -> dict[str, Any] | None:
    if not isinstance(transformer, WindowTransformer):
        return None
    first: Any = transformer.layers[0]
    return {
        "layers": len(transformer.layers),
        "heads": first.attention.heads,
        "head_dim": first.attention.head_dim,
        "window": transformer.window,
        "eps": first.attention_norm.eps,
    }


def _layers(window: LayerWindow, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    layer, kind = window.layer, type(window.layer).__name__
    found = {"kind": kind, "name": names[id(layer)], "rate": window.rate, "after": window.after}
    if isinstance(layer, CausalConv):
        yield found | {"dilation": layer.conv.dilation[0]}
    elif isinstance(layer, CausalTransposedConv):
        if layer.kernel % layer.stride:
            raise UnsupportedCodecError(
                f"codec: kernel {layer.kernel} of stride {layer.stride}, expected a multiple of it."
            )
        yield found | {"stride": layer.stride, "surplus": layer.surplus(window.after)}
    elif isinstance(layer, Residual):
        inner: Any = list(layer.block)
        if [type(each) for each in inner] != [Snake, CausalConv, Snake, CausalConv]:
            raise UnsupportedCodecError(f"codec: {found['name']} is no residual unit of Snakes.")
        if inner[3].left:
            raise UnsupportedCodecError(f"codec: {found['name']} ends with more than one tap.")
        yield found | {"dilation": inner[1].conv.dilation[0], "left": inner[1].left}
    elif isinstance(layer, ConvNeXt):
        yield found | {"left": layer.depthwise.left, "eps": layer.norm.eps}
    elif isinstance(layer, Snake | Tanh):
        yield found
    else:
        raise UnsupportedCodecError(f"codec: {found['name']} is a {kind}.")
