"""Genuine upstream on the workload's own shape: what one of its segments takes, piece by piece."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.workload import FRAMES, REFERENCE_S
from families.fish_s1 import upstream
from families.fish_s1.checkpoint import load_checkpoint, load_codec, load_llama

SHORT_CACHE = 2304  # positions: upstream's best honest setting, answer and prompt just fit
AS_IT_IS, SHORT_CACHE_NAME = "as it is", f"cache {SHORT_CACHE}"


@dataclass
class Pieces:
    """Seconds of each piece, one entry a measurement.

    Attributes:
        prefill: Of the prompt, its first frame included.
        frame: Of every further frame.
        decode: Of a segment's codes, to audio.
        encode: Of a reference of 10 s.
    """

    prefill: list[float] = field(default_factory=list)
    frame: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)

    def segment_s(self) -> float:
        """A segment of the workload, put together from the medians; upstream does one at a time."""
        median = statistics.median
        return median(self.prefill) + (FRAMES - 1) * median(self.frame) + median(self.decode)


class Upstream:
    """The genuine model and codec, as upstream's own engine sets them up."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        """Args: the checkpoint, and the dtype of the transformers; the codec's is float32."""
        loaded = load_checkpoint(checkpoint)
        self.caches: dict[str, Any] = {
            AS_IT_IS: load_llama(loaded, dtype),
            SHORT_CACHE_NAME: load_llama(loaded, dtype, max_seq_len=SHORT_CACHE),
        }
        for model in self.caches.values():
            model.setup_caches(1, model.config.max_seq_len, dtype=dtype)
        self.codec: Any = load_codec(loaded)
        self.pieces = {name: Pieces() for name in self.caches}

    @torch.inference_mode()
    def measure(self, prompt: torch.Tensor, frames: int) -> None:
        """Add one measurement of every piece.

        Args:
            prompt: int32 (1, 1 + codebooks, positions), one of the workload's.
            frames: To decode after the first.
        """
        codes = torch.zeros(1, prompt.shape[1] - 1, FRAMES, dtype=torch.int64)
        decode_s = _seconds(lambda: self.codec.decode(codes, torch.tensor([FRAMES])))
        audio = torch.zeros(1, 1, round(REFERENCE_S * int(self.codec.sample_rate)))
        encode_s = _seconds(lambda: self.codec.encode(audio))
        for name, model in self.caches.items():
            pieces = self.pieces[name]
            pieces.decode.append(decode_s)
            pieces.encode.append(encode_s)
            self._measure_llama(model, pieces, prompt, frames)

    def _measure_llama(self, model: Any, pieces: Pieces, prompt: torch.Tensor, frames: int) -> None:
        options = [torch.tensor(v, dtype=torch.bfloat16) for v in (0.8, 0.8, 1.1)]
        window = torch.zeros(prompt.shape[1], 16, dtype=torch.int)
        decode_one: Any = upstream.decode_one_token_ar

        def step(tokens: torch.Tensor, positions: torch.Tensor, previous: Any) -> torch.Tensor:
            begin = time.perf_counter()
            column = decode_one(model, tokens, positions, *options, None, None, previous)
            times.append(time.perf_counter() - begin)
            return column.reshape(1, prompt.shape[1], 1)

        times: list[float] = []
        length = prompt.shape[2]
        column = step(prompt, torch.arange(length), None)
        pieces.prefill.append(times.pop())
        with sdpa_kernel(SDPBackend.MATH):  # as upstream's `decode_n_tokens`
            for position in range(length, length + frames):
                column = step(column, torch.tensor([position]), window)
        pieces.frame += times

    def codec_flops(self, frames: int = 8) -> float:
        """Floating-point operations to decode one frame, counted in the genuine codec."""
        from torch.utils.flop_counter import FlopCounterMode

        books = self.codec.quantizer.quantizer.n_codebooks + 1
        codes = torch.zeros(1, books, frames, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.codec.decode(codes, torch.tensor([frames]))
        return counter.get_total_flops() / frames


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
