"""The codec in process: windows by size, history and batch, and recordings.

The decoder by kernels is timed in every precision, with its launches replayed and without.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_visit import artefacts, clock, step_card
from benchmarks.gpu_visit.decoder import PRECISIONS, gpu_decoder
from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import Visit
from benchmarks.speed.artefacts import script
from benchmarks.speed.bounds import Rates
from benchmarks.speed.cells import flops_of
from engine.codec.on_gpu.decoder import GpuDecoder
from engine.codec.quantizer import quantizers
from ensemble.contract.facts import Facts
from ensemble.contract.reference import CHUNK_FRAMES
from export import parity
from export.parity import Run
from families.registry import family_of

PRECISION = "fp32"  # of what is exported; TF32 is off in every trace
_COUNTED = 8  # frames of which operations are counted


@dataclass(frozen=True)
class Plan:
    """Attributes:
    new: Frames of a window that become audio.
    histories: Frames before them.
    batches: Windows at a time.
    recordings: Frames and batch of what is encoded.
    windows: Batch and new frames of what kernels decode.
    """

    new: tuple[int, ...]
    histories: tuple[int, ...]
    batches: tuple[int, ...]
    recordings: tuple[tuple[int, int], ...]
    windows: tuple[tuple[int, int], ...]


FULL = Plan(
    (8, 16, 32, 64), (0, 256), (1, 4, 16), ((22, 1), (215, 1), (215, 4)),
    ((1, 8), (16, 8), (1, 64), (4, 64), (16, 64)),
)  # fmt: skip
TINY = Plan((8,), (0, 16), (1, 2), ((22, 1),), ((1, 8),))


@dataclass(frozen=True)
class Work:
    """What one artefact must do.

    Attributes:
        run: It, on the device.
        weight_bytes: It reads them once a run.
        flops: Of one frame, as upstream's own graph needs them.
        rates: Of the device.
    """

    run: Run
    weight_bytes: int
    flops: float
    rates: Rates

    def row(self, inputs: list[torch.Tensor], new: int, frame_s: float) -> dict[str, Any]:
        """Time a run that makes so many new frames of each row."""
        device, frames = inputs[0].device.type, new * len(inputs[0])
        spent_s = clock.seconds(lambda: self.run(*inputs), device, repeats=5)
        bytes_s = self.weight_bytes / self.rates.read
        flops_s = frames * self.flops / self.rates.multiply[PRECISION]
        return {
            "precision": PRECISION,
            "batch": len(inputs[0]),
            "new": new,
            "ms": 1e3 * spent_s,
            "rtf": spent_s / (frames * frame_s),
            "bound_by": "bytes" if bytes_s > flops_s else "flops",
            "ratio": spent_s / max(bytes_s, flops_s),
        }


@torch.inference_mode()
def run(visit: Visit, results: Results) -> None:
    """Measure all sizes of the plan."""
    made, plan = artefacts.served(visit), TINY if visit.tiny else FULL
    facts = Facts.load(made.repository / "fish_llama" / "1")
    works = _works(visit, made)
    for name, rows in (
        ("decode", _decoded(works["fish_decoder"], facts, plan, visit.device)),
        ("encode", _encoded(works["fish_encoder"], facts, plan, visit.device)),
    ):
        found = []
        for row in rows:
            found.append(row)
            results.put(name, found)
    found = []
    for row in _by_kernels(visit, made, works["fish_decoder"], facts, plan):
        found.append(row)
        results.put("kernels", found)


def _works(visit: Visit, made: artefacts.Artefacts) -> dict[str, Work]:
    """Both artefacts; operations are counted on the CPU, in the genuine codec."""
    family = family_of(made.checkpoint)
    genuine = family.load_codec(family.load_checkpoint(made.checkpoint))
    codes = torch.zeros(1, len(quantizers(genuine)), _COUNTED, dtype=torch.int64)
    audio = torch.zeros(1, 1, _COUNTED * int(genuine.frame_length))
    counted = {
        "fish_decoder": flops_of(lambda: genuine.decode(codes, torch.tensor([_COUNTED]))),
        "fish_encoder": flops_of(lambda: genuine.encode(audio)),
    }
    rates, works = step_card.rates(visit), {}
    for name, flops in counted.items():
        folder = made.repository / name / "1"
        size = (folder / "model.pt").stat().st_size  # nearly all of it weights
        works[name] = Work(script(folder, visit.device), size, flops / _COUNTED, rates)
    return works


def _decoded(work: Work, facts: Facts, plan: Plan, device: str) -> Iterator[dict[str, Any]]:
    frame_s = facts.samples_per_frame / facts.sample_rate
    for history in plan.histories:
        for new in plan.new:
            for batch in plan.batches:
                shape = (batch, facts.num_codebooks, history + new)
                codes = torch.randint(min(facts.codebook_sizes), shape, device=device)
                numbers = torch.arange(history, history + new, device=device).repeat(batch, 1)
                yield {"history": history, **work.row([codes, numbers], new, frame_s)}


def _encoded(work: Work, facts: Facts, plan: Plan, device: str) -> Iterator[dict[str, Any]]:
    frame_s = facts.samples_per_frame / facts.sample_rate
    for frames, batch in plan.recordings:
        samples = frames * facts.samples_per_frame
        waveform = parity.test_signal(batch, samples, facts.sample_rate).to(device)
        pieces = torch.full((batch, 1), CHUNK_FRAMES, device=device)
        yield work.row([waveform, pieces], frames, frame_s)


def _by_kernels(
    visit: Visit, made: artefacts.Artefacts, exact: Work, facts: Facts, plan: Plan
) -> Iterator[dict[str, Any]]:
    """First windows, which cost as much as later ones behind a kept state, and their noise."""
    frame_s = facts.samples_per_frame / facts.sample_rate
    for precision in PRECISIONS:
        decoder, _ = gpu_decoder(visit, made, precision)
        for replayed in (False, True) if visit.device == "cuda" else (False,):
            if replayed:
                decoder.record(torch.cuda.graph_pool_handle())
            for batch, new in plan.windows:
                shape = batch, facts.num_codebooks, new
                codes = torch.randint(min(facts.codebook_sizes), shape, device=visit.device)
                numbers = torch.arange(new, device=visit.device).repeat(batch, 1)
                run = partial(_first_windows, decoder)
                noise = parity.noise(run(codes, numbers)[0], exact.run(codes, numbers)[0])
                row = replace(exact, run=run).row([codes, numbers], new, frame_s)
                yield row | {"precision": precision, "replayed": replayed, "noise": noise}


def _first_windows(
    decoder: GpuDecoder, codes: torch.Tensor, numbers: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return decoder.resume(codes, numbers, 0, *decoder.begin(len(codes)))
