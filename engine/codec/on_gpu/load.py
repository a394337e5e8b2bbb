"""The decoder of a `model.pt` on a GPU, in the precision that is asked for and good enough."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.codec import structure
from engine.codec.on_gpu.decoder import GpuDecoder
from engine.codec.on_gpu.layout import Layout
from engine.codec.session import DecoderSession

NOISE_LIMIT = 1e-2  # rms of the difference from float32 / rms of the audio: 40 dB below it
# New frames in one run. At S1-mini's size its largest tensors have 0.4 GB each.
RUN_FRAMES = 512
STATE_BYTES = 1 << 30  # of all states that are kept: 256 streams of S1-mini's 4 MB
_CHECKED = 32  # frames of random codes, which go further than speech does


def load(
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    operators: Any,
    split: bool | None = None,
) -> tuple[GpuDecoder, dict[str, Any], str]:
    """Build the decoder.

    Args:
        path: What the export wrote as TorchScript.
        device: Where to.
        dtype: Half precision of either kind.
        operators: See `GpuDecoder`.
        split: Whether operands are sums of two numbers; None: where one alone misses
            `NOISE_LIMIT`.

    Returns:
        The decoder, what the file says of it, and what its products are, in words.

    Raises:
        ValueError: If the file does not say how its weights are used.
    """
    said = {structure.FILE: ""}
    exact = torch.jit.load(str(path), map_location=device, _extra_files=said).eval()
    described: dict[str, Any] = json.loads(said[structure.FILE] or "{}")
    if described.get("format") != structure.FORMAT:
        raise ValueError(f"{path.name} is of another version: make export CHECKPOINT=DIR")
    tensors = dict(exact.state_dict())

    def built(split: bool) -> GpuDecoder:
        return GpuDecoder(described, Layout(tensors, dtype, split), device, operators)

    kind = str(dtype).removeprefix("torch.")
    decoder, words = built(split=False), f"products of {kind}"
    if split is not None:
        if split:
            decoder, words = built(split=True), f"products of {kind}, each a sum of three"
        return decoder, described, words
    distance = noise(decoder, exact, tensors["dequantizer.rows.largest"])
    if distance <= NOISE_LIMIT:
        return decoder, described, f"{words}, {_in_db(distance)} from float32 on random codes"
    words += f" are {_in_db(distance)} from float32 on random codes, so each is a sum of three"
    return built(split=True), described, words


def session(decoder: GpuDecoder, described: dict[str, Any]) -> DecoderSession:
    """Serve it."""
    return DecoderSession(decoder, described, RUN_FRAMES, STATE_BYTES)


@torch.inference_mode()
def noise(decoder: GpuDecoder, exact: Any, largest: Tensor) -> float:
    """Rms of the difference / rms of the audio, for random codes up to `largest`."""
    chance = torch.Generator().manual_seed(0)
    highest = largest.cpu()
    codes = torch.rand(1, highest.shape[1], _CHECKED, generator=chance)
    codes = (codes * (highest + 1)).long()
    numbers = torch.arange(_CHECKED)[None]
    optimized = torch.jit.optimized_execution  # pyright: ignore[reportPrivateImportUsage]
    with optimized(False):
        expected = exact(codes.to(largest.device), numbers.to(largest.device))
    found, _, _ = decoder.resume(codes, numbers, 0, *decoder.begin(1))
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def _in_db(distance: float) -> str:
    return f"{-20 * torch.tensor(distance).log10().item():.0f} dB"
