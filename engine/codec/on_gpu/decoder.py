"""The decoder on a GPU: products of half precision with float32 sums, launches replayed.

What lies between the products, the sums of residual units and Snakes among it, stays float32. A
convolution, what is added to it and the Snake behind it are one launch.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.codec.on_gpu.layout import Layout
from engine.codec.quantizer import CodebookRows
from engine.kernels.cuda_replay import Replay
from engine.kernels.rotary import rotate, rotation
from engine.kernels.rounded import Conv

# New frames of the windows that streams ask for. Others, a stream's last above all, are launched
# one by one: to record a shape takes longer than that.
RECORDED_FRAMES = (8, 16, 32, 64)
# Frames of all rows together; with more, launching is the smaller part of the time.
RECORDED_AT_MOST = 256
MOST_ROWS = 16  # max_batch_size of fish_decoder
_NO_TRANSFORMER = {"layers": 0, "heads": 1, "head_dim": 1, "window": 0, "eps": 0.0}
Pair = tuple[Tensor, Tensor | None]


@functools.cache
def recorded_shapes() -> frozenset[tuple[int, int]]:
    """Rows and new frames of every batch that is replayed; batches are filled up to one of them."""
    rows = [1 << i for i in range(MOST_ROWS.bit_length())]
    return frozenset((r, n) for r in rows for n in RECORDED_FRAMES if r * n <= RECORDED_AT_MOST)


class GpuDecoder:
    """`begin` and `resume`, as `KernelDecoder` has them."""

    def __init__(
        self, described: Mapping[str, Any], layout: Layout, device: torch.device, operators: Any
    ) -> None:
        """Args:
        described: By `engine.codec.structure.structure_of`.
        layout: Of weights that lie on the device.
        device: Where it runs.
        operators: `engine.kernels.gpu_codec`, or `rounded`, the same by torch.
        """
        self._device, self._ops = device, operators
        self._operand = torch.float32 if layout.split else layout.dtype  # what goes into products
        tensors = layout.tensors
        sizes = (tensors["dequantizer.rows.largest"].flatten() + 1).tolist()
        self._rows = CodebookRows([int(size) for size in sizes]).to(device)
        self._entries = tensors["dequantizer.entries"]
        self._project = layout.linear("dequantizer.project")
        self._context, self._codebooks = int(described["context_frames"]), len(sizes)
        self._shape = described["transformer"] or _NO_TRANSFORMER
        self._blocks = [layout.block(i) for i in range(self._shape["layers"])]
        self._ends = [layout.optional(f"transformer.project_{end}") for end in ("in", "out")]
        self._table = tensors.get("transformer.cos_sin", self._entries)
        self._norm = tensors.get("transformer.norm.weight", self._entries)
        self._layers = [(layer, layout.layer(layer)) for layer in described["layers"]]
        self._dim = self._project.weight.shape[2]
        self._replay: Replay | None = None

    def record(self, pool: Any) -> None:
        """Record every shape that is replayed, before the first caller waits for it.

        Args:
            pool: Of CUDA's memory, which all recordings share.
        """
        self._replay = Replay(self._step, pool)
        for rows, new in sorted(recorded_shapes()):
            codes = torch.zeros(rows, self._codebooks, new, dtype=torch.int64)
            self.resume(codes, torch.arange(new).repeat(rows, 1), 0, *self.begin(rows))

    def begin(self, rows: int) -> tuple[Tensor, Tensor]:
        """`cache` and `context` of `resume` where nothing has been decoded."""
        d = self._shape
        extents = rows, d["layers"], 2, d["heads"], 0, d["head_dim"]
        cache = torch.empty(extents, dtype=self._operand, device=self._device)
        return cache, torch.empty(rows, 0, self._dim, device=self._device)

    def resume(
        self, codes: Tensor, new_frames: Tensor, history: int, cache: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the frames behind those that the cache knows: see `KernelDecoder.resume`.

        Codes and numbers may lie anywhere. Results are on the device and hold until the next call.
        """
        count, _, frames = codes.shape
        new, known, heard = new_frames.shape[1], cache.shape[4], context.shape[1]
        begins = new_frames[:, 0]
        start = begins - (frames - new)
        counts = torch.stack([start, start.clamp(max=known), begins.clamp(max=history)], 1)
        inputs = [
            codes.to(self._device),
            counts.to(self._device),
            F.pad(cache, (0, 0, self._shape["window"] - known, 0)),
            F.pad(context, (0, 0, self._context - heard, 0)),
        ]
        rows = 1 << (count - 1).bit_length()
        if self._replay is not None and frames == new and (rows, new) in recorded_shapes():
            filled = [F.pad(x, (0, 0) * (x.dim() - 1) + (0, rows - count)) for x in inputs]
            audio, cache, context = self._replay(*filled)
        else:
            audio, cache, context = self._step(inputs[0], inputs[1], inputs[2], inputs[3], new)
        oldest = max(0, cache.shape[4] - known - frames)
        before = max(0, self._context - heard - frames)
        return audio[:count], cache[:count, ..., oldest:, :], context[:count, before:]

    def _step(
        self, codes: Tensor, counts: Tensor, cache: Tensor, context: Tensor, new: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode behind a cache and a context that are filled up in front.

        Args:
            codes: int64 (rows, codebooks, frames).
            counts: int64 (rows, 3): the number of the first frame, positions in the cache that are
                known, and frames before the new ones.
            cache: (rows, layers, 2, heads, window, head_dim).
            context: float32 (rows, context_frames, dim).
            new: New frames; 0: all.
        """
        start, known, history = (column.contiguous() for column in counts.unbind(1))
        entries = F.embedding(self._rows(codes), self._entries)
        x = self._float32(entries.transpose(1, 2).flatten(2), self._project)
        if self._blocks:
            x, cache = self._transformed(x, start, known, cache)
        x = torch.cat([context, x], 1)
        end = x.shape[1] - self._context
        audio = self._convolved(x[:, end - (new or codes.shape[2]) :].contiguous(), history)
        return audio, cache, x[:, end:]

    def _transformed(
        self, x: Tensor, start: Tensor, known: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        d, time, ops = self._shape, x.shape[1], self._ops
        positions = start[:, None] + torch.arange(time, device=x.device)
        turn = rotation(self._table[positions][:, :, None])
        x = self._float32(x, self._ends[0])
        caches = []
        for i, block in enumerate(self._blocks):
            y = ops.norm(x, block["attention_norm"], d["eps"])
            y = self._float32(y, block["wqkv"])
            q, k, v = y.unflatten(-1, (3, d["heads"], d["head_dim"])).unbind(2)
            q, k = rotate(q, turn), rotate(k, turn)
            both = torch.stack([k, v], 1).transpose(2, 3).to(cache.dtype)
            both = torch.cat([cache[:, i], both], 3)
            caches.append(both[:, :, :, time:])
            x = self._float32(ops.attend(q, both[:, 0], both[:, 1], known), block["wo"], x)
            y = ops.norm(x, block["ffn_norm"], d["eps"])
            y = ops.gated(self._float32(y, block["gate_up"]))
            x = self._float32(y, block["down"], x)
        x = self._float32(ops.norm(x, self._norm, d["eps"]), self._ends[1])
        return x, torch.stack(caches, 1)

    def _convolved(self, x: Tensor, history: Tensor) -> Tensor:
        """The new frames' audio, (rows, samples), of the new frames and their context."""
        kept: Tensor | None = None  # what goes into the Snake of the residual unit that follows
        for i, (layer, weights) in enumerate(self._layers):
            kind = layer["kind"]
            if kind == "Tanh":
                x = torch.tanh(x)
            elif kind != "Snake":  # which is done behind the layer before it
                x, kept = self._layer(layer, weights, x, kept, self._behind(i, history))
        return x.flatten(1)

    def _behind(self, i: int, history: Tensor) -> dict[str, Any]:
        """What is done behind the products of a layer, as `convolve` takes it."""
        layer = self._layers[i][0]
        kind, after = "", {}
        if i + 1 < len(self._layers):
            following, after = self._layers[i + 1]
            kind = following["kind"]
        found: dict[str, Any] = {
            "dtype": torch.float32 if kind in ("ConvNeXt", "Tanh", "") else self._operand,
            "activation": after.get("before", ""),
            "keep": kind == "Residual",
        }
        if layer["after"]:
            place = layer["after"] + layer.get("surplus", 0)
            found["beginning"] = history, place, layer["rate"] * layer.get("stride", 1)
        return found

    def _layer(
        self,
        layer: Mapping[str, Any],
        weights: Mapping[str, Any],
        x: Tensor,
        kept: Tensor | None,
        behind: dict[str, Any],
    ) -> Pair:
        """One layer, and what is done behind it."""
        convolve, kind = self._ops.convolve, layer["kind"]
        if kind == "Residual":
            assert kept is not None
            y, _ = convolve(x, weights["wide"], self._operand, activation=weights["snake"])
            return convolve(y, weights["narrow"], residual=kept[:, layer["left"] :], **behind)
        if kind == "ConvNeXt":
            return self._next(x, layer, weights, behind)
        outputs = convolve(x, weights["conv"], **behind)
        if kind == "CausalConv":
            return outputs

        def in_time(y: Tensor) -> Tensor:  # outputs of one input lie side by side
            return y.view(len(y), y.shape[1] * layer["stride"], -1)[:, layer["surplus"] :]

        return in_time(outputs[0]), None if outputs[1] is None else in_time(outputs[1])

    def _next(
        self, x: Tensor, layer: Mapping[str, Any], weights: Mapping[str, Any], behind: Any
    ) -> Pair:
        """`ConvNeXt`: a depthwise convolution, a norm, a perceptron."""
        time = x.shape[1] - layer["left"]
        y = weights["bias"].expand(len(x), time, -1)
        for tap, weight in enumerate(weights["taps"]):
            y = y + x[:, tap : tap + time] * weight
        y = F.layer_norm(y, y.shape[2:], weights["norm"][0], weights["norm"][1], layer["eps"])
        y, _ = self._ops.convolve(y, weights["widen"], self._operand, activation="gelu")
        residual = x[:, layer["left"] :]
        return self._ops.convolve(y, weights["narrow"], residual=residual, **behind)

    def _float32(self, x: Tensor, conv: Conv | None, residual: Tensor | None = None) -> Tensor:
        return x if conv is None else self._ops.convolve(x, conv, torch.float32, residual)[0]
