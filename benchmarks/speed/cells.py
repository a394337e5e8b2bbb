"""Decoding and encoding in process: every artefact and genuine upstream, taking turns."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.artefacts import decoders, encoders
from engine.codec.package import INT8_FILE_NAME
from engine.codec.quantizer import quantizers
from engine.codec.streaming import samples_per_frame
from ensemble.contract.settings import ROUNDINGS
from export import parity
from export.parity import Run

UPSTREAM = "upstream"
LONG_HISTORY = 256  # frames: 12 s of audio
_MAX_TURNS = 7  # one to warm up, and six that count


@dataclass(frozen=True)
class CodecCell:
    """One size, measured.

    Attributes:
        what: decode or encode.
        batch: Number of rows.
        frames: New frames of each row.
        history: Frames before the new ones that the decoder is given.
        audio_s: Seconds of audio in all rows.
        flops: Floating-point operations of upstream's own graph for the new frames.
        seconds: Median seconds by artefact; one of them is `UPSTREAM`.
    """

    what: str
    batch: int
    frames: int
    history: int
    audio_s: float
    flops: float
    seconds: dict[str, float]

    @property
    def best(self) -> str:
        """The fastest artefact of ours."""
        return min((n for n in self.seconds if n != UPSTREAM), key=self.seconds.__getitem__)

    def rtf(self, artefact: str) -> float:
        return self.seconds[artefact] / self.audio_s

    def speedup(self, artefact: str) -> float:
        return self.seconds[UPSTREAM] / self.seconds[artefact]


@dataclass(frozen=True)
class Codec:
    """One checkpoint's codec, genuine and exported.

    Attributes:
        genuine: Upstream's module, float32.
        decoders: Artefact -> its call; the one that a CPU serves comes first.
        encoders: Artefact -> its call, in the same order.
        cell_s: Seconds to spend on a size; one turn is made in any case.
    """

    genuine: Any
    decoders: dict[str, Run]
    encoders: dict[str, Run]
    cell_s: float

    @classmethod
    def of(cls, genuine: Any, repository: Path, cell_s: float, precision: str = "half") -> "Codec":
        """Load every artefact of a repository; the decoder in 8 bits only for `int8`."""
        return cls(
            genuine, decoders(repository, precision in ROUNDINGS), encoders(repository), cell_s
        )

    @property
    def served_decoder(self) -> tuple[str, Run]:
        """Name and call of the decoder that a CPU serves."""
        return next(iter(self.decoders.items()))

    @property
    def frame_s(self) -> float:
        """Seconds of audio in a frame."""
        return samples_per_frame(self.genuine) / int(self.genuine.sample_rate)

    def warm_up(self) -> None:
        """Make every call once, at its smallest size."""
        self.decode(1, 1, 0)
        self.encode(1, 1)

    def decode(self, batch: int, new: int, history: int, known: Mapping = {}) -> CodecCell:
        """Measure one size; artefacts whose seconds are `known` are not measured again.

        Upstream cannot decode a window exactly: its time is that of as many frames without history.
        """
        codes, numbers = windows(self.genuine, batch, history, new)
        lengths = torch.full((batch,), new)
        fresh = codes[:, :, history:].contiguous()
        calls = {
            UPSTREAM: lambda: self.genuine.decode(fresh, lengths),
            **{n: lambda d=d: d(codes, numbers) for n, d in self.decoders.items()},
        }
        seconds = taking_turns({n: c for n, c in calls.items() if n not in known}, self.cell_s)
        flops = flops_of(lambda: self.genuine.decode(fresh[:1, :, :1], torch.tensor([1])))
        audio_s = batch * new * self.frame_s
        return CodecCell(
            "decode", batch, new, history, audio_s, batch * new * flops, {**known, **seconds}
        )

    def encode(self, batch: int, frames: int) -> CodecCell:
        """Measure one size of a batch of recordings."""
        samples = frames * samples_per_frame(self.genuine)
        waveform = parity.test_signal(batch, samples, int(self.genuine.sample_rate))
        calls = {
            UPSTREAM: lambda: self.genuine.encode(waveform[:, None]),
            **{n: lambda e=e: e(waveform) for n, e in self.encoders.items()},
        }
        seconds = taking_turns(calls, self.cell_s)
        one = waveform[:1, None, : 8 * samples_per_frame(self.genuine)]
        flops = flops_of(lambda: self.genuine.encode(one)) / (one.shape[2] / samples)
        return CodecCell("encode", batch, frames, 0, batch * frames * self.frame_s,
                    batch * flops, seconds)  # fmt: skip

    def encoder_is_exact(self, frames: int) -> bool:
        """Whether every artefact gives upstream's codes, for a recording of so many frames."""
        samples = frames * samples_per_frame(self.genuine)
        waveform = parity.test_signal(1, samples, int(self.genuine.sample_rate))
        expected = self.genuine.encode(waveform[:, None])[0]
        return all(torch.equal(run(waveform)[0], expected) for run in self.encoders.values())

    def snr_db(self, frames: int) -> dict[str, float]:
        """Signal to noise against upstream in float32: of the served decoder, and of `half`'s."""
        codes, numbers = windows(self.genuine, 1, 0, frames)
        expected = self.genuine.decode(codes, torch.tensor([frames]))[0][:, 0]
        name, served = self.served_decoder
        half = next(run for name, run in self.decoders.items() if name != INT8_FILE_NAME)
        runs = {name: served, "half": half}
        return {n: _db(parity.noise(r(codes, numbers)[0], expected)) for n, r in runs.items()}


def decode_cells(
    codec: Codec, batches: list[int], new_frames: list[int], max_frames: int
) -> Iterator[CodecCell]:
    """Measure every size of at most `max_frames` in all rows, with and without history."""
    limit = int(codec.genuine.quantizer.post_module.config.block_size)
    for batch in batches:
        for new in new_frames:
            if batch * new <= max_frames:
                yield (cell := codec.decode(batch, new, 0))
                known = {UPSTREAM: cell.seconds[UPSTREAM]}
                yield codec.decode(batch, new, min(LONG_HISTORY, limit - new), known)


def windows(codec: Any, batch: int, history: int, new: int) -> tuple[Tensor, Tensor]:
    """Random codes: int64 (batch, codebooks, history + new), and the numbers of the new frames."""
    shape = (batch, history + new)
    rows = [torch.randint(0, int(q.codebook_size), shape) for q in quantizers(codec)]
    return torch.stack(rows, dim=1), torch.arange(history, history + new).repeat(batch, 1)


def taking_turns(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median time of each call; they take turns, since the machine's speed changes meanwhile.

    Turns go on until `seconds` are spent. The first is the warm-up, unless it remains the only one.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for _ in range(_MAX_TURNS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        if time.perf_counter() - begin > seconds:
            break
    return {name: statistics.median(found[1:] or found) for name, found in times.items()}


def flops_of(call: Callable[[], Any]) -> float:
    """Floating-point operations of a call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _db(noise: float) -> float:
    return -20 * torch.tensor(noise).log10().item()
