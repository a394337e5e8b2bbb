"""Genuine upstream, piece by piece: its transformers with a cache of one size, and its codec."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.workload import AS_IT_IS, FRAMES, REFERENCE_S, SHORT_CACHE, short_cache_name
from families.fish_s1 import upstream
from families.fish_s1.checkpoint import Checkpoint, load_checkpoint, load_codec, load_llama

_TEMPERATURE, _TOP_P, _PENALTY = 0.8, 0.8, 1.1  # defaults of upstream's `generate_long`
_WINDOW = 16  # previous frames of the penalty. Source: `decode_n_tokens`, fish-speech 0.1.0


class UpstreamLlama:
    """The genuine transformers, set up as upstream's own engine does: one request at a time."""

    def __init__(self, loaded: Checkpoint, dtype: torch.dtype, cache: int | None = None) -> None:
        """Load them.

        Args:
            loaded: The checkpoint.
            dtype: Precision of weights and cache.
            cache: Positions of the cache; None: as many as the checkpoint can use.
        """
        self.model = load_llama(loaded, dtype, max_seq_len=cache)
        self.model.setup_caches(1, self.model.config.max_seq_len, dtype=dtype)
        options = (_TEMPERATURE, _TOP_P, _PENALTY)
        self._options = [torch.tensor(value, dtype=torch.bfloat16) for value in options]
        self._window = torch.zeros(1 + self.model.config.num_codebooks, _WINDOW, dtype=torch.int)

    @property
    def silent_column(self) -> Tensor:
        """int32 (1, 1 + codebooks, 1): a frame of codes 0, to go on from without a prompt."""
        column = torch.zeros(1, len(self._window), 1, dtype=torch.int)
        column[0, 0] = self.model.tokenizer.semantic_begin_id
        return column

    def prefill(self, prompt: Tensor) -> tuple[Tensor, float]:
        """Push a prompt through, int32 (1, 1 + codebooks, positions).

        Returns:
            The first frame after it, as a column, and the seconds that this took.
        """
        return self._decoded(prompt, torch.arange(prompt.shape[2]), None)

    def frames(self, column: Tensor, position: int, count: int) -> list[float]:
        """Decode frames one after the other, the first from `column` at `position`.

        Returns:
            Seconds of each.
        """
        times = []
        with sdpa_kernel(SDPBackend.MATH):  # as upstream's `decode_n_tokens`
            for i in range(position, position + count):
                column, elapsed_s = self._decoded(column, torch.tensor([i]), self._window)
                times.append(elapsed_s)
        return times

    @torch.inference_mode()
    def _decoded(
        self, tokens: Tensor, positions: Tensor, previous: Tensor | None
    ) -> tuple[Tensor, float]:
        decode: Any = upstream.decode_one_token_ar
        begin = time.perf_counter()
        column = decode(self.model, tokens, positions, *self._options, None, None, previous)
        elapsed_s = time.perf_counter() - begin
        return column.reshape(1, len(self._window), 1), elapsed_s


def llamas(
    loaded: Checkpoint, dtype: torch.dtype, short_cache: int = SHORT_CACHE
) -> dict[str, UpstreamLlama]:
    """Upstream as it is, and with the short cache: its best setting that still can answer."""
    return {
        AS_IT_IS: UpstreamLlama(loaded, dtype),
        short_cache_name(short_cache): UpstreamLlama(loaded, dtype, short_cache),
    }


@dataclass
class Pieces:
    """Seconds of each piece of the workload, one entry a measurement.

    Attributes:
        prefill: Of the prompt, its first frame included.
        frame: Of every further frame.
        decode: Of a segment's codes to audio.
        encode: Of a reference of 10 s.
    """

    prefill: list[float] = field(default_factory=list)
    frame: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)

    def segment_s(self) -> float:
        """A segment, added up from the medians; upstream speaks one at a time."""
        median = statistics.median
        return median(self.prefill) + (FRAMES - 1) * median(self.frame) + median(self.decode)


class Upstream:
    """The genuine transformers and codec under the workload."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        """Load a checkpoint; `dtype` is the transformers', the codec computes in float32."""
        loaded = load_checkpoint(checkpoint)
        self.llamas = llamas(loaded, dtype)
        self.codec: Any = load_codec(loaded)
        self.pieces = {name: Pieces() for name in self.llamas}

    @torch.inference_mode()
    def measure(self, prompt: Tensor, frames: int) -> None:
        """Add one measurement of every piece.

        Args:
            prompt: int32 (1, 1 + codebooks, positions), one of the workload's.
            frames: Frames to decode after the first.
        """
        codes = torch.zeros(1, prompt.shape[1] - 1, FRAMES, dtype=torch.int64)
        decode_s = _seconds(lambda: self.codec.decode(codes, torch.tensor([FRAMES])))
        audio = torch.zeros(1, 1, round(REFERENCE_S * int(self.codec.sample_rate)))
        encode_s = _seconds(lambda: self.codec.encode(audio))
        for name, llama in self.llamas.items():
            pieces = self.pieces[name]
            pieces.decode.append(decode_s)
            pieces.encode.append(encode_s)
            column, prefill_s = llama.prefill(prompt)
            pieces.prefill.append(prefill_s)
            pieces.frame += llama.frames(column, prompt.shape[2], frames)

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
