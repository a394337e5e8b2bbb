"""The codec on the device: windows against the whole, and both against float32 on the CPU."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_visit import artefacts
from benchmarks.gpu_visit.decoder import PRECISIONS, gpu_decoder
from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import Visit
from benchmarks.speed.artefacts import script
from engine.codec.on_gpu import load as on_gpu
from engine.schedule.chunk_schedule import ChunkSchedule
from ensemble.contract.facts import Facts
from ensemble.contract.reference import CHUNK_FRAMES
from ensemble.contract.window import Window
from export import parity
from export.parity import Run

# Each counts as exact up to the limit that an export is held to.
LIMITS = {
    "audio_windows_vs_whole": parity.AUDIO_LIMIT,
    "audio_vs_cpu": parity.AUDIO_LIMIT,
    "codes_pieces_vs_whole": parity.CODES_LIMIT,
    "codes_vs_cpu": parity.CODES_LIMIT,
    "kernels_windows_vs_whole": parity.AUDIO_LIMIT,
}


@torch.inference_mode()
def run(visit: Visit, results: Results) -> None:
    """Measure each difference; what they may be goes with them."""
    made = artefacts.served(visit)
    repository = made.repository
    facts = Facts.load(repository / "fish_llama" / "1")
    frames = 24 if visit.tiny else 150  # several windows, behind histories short and long
    found: dict[str, float] = {}
    for name, difference in (("fish_decoder", _audio), ("fish_encoder", _codes)):
        folder = repository / name / "1"
        runs = script(folder, visit.device), script(folder, "cpu")
        found |= difference(*runs, facts, frames, visit.device)
        results.put("differences", found)
    found |= {"kernels_windows_vs_whole": _by_kernels(visit, made, facts, frames)}
    results.put("differences", found)
    results.put("limits", LIMITS)
    results.put("exact", all(found[name] <= limit for name, limit in LIMITS.items()))


def _audio(run: Run, on_cpu: Run, facts: Facts, frames: int, device: str) -> dict[str, float]:
    """Largest differences of samples in [-1, 1]."""
    codes, numbers = _random_codes(facts, frames), np.arange(frames)
    whole = run(*_tensors(device, codes.T, numbers))[0].cpu()
    parts = [
        run(*_tensors(device, window.codes, window.new_frames))[0].cpu()
        for window in _windows(codes, facts)
    ]
    return {
        "audio_windows_vs_whole": _joined(parts, whole),
        "audio_vs_cpu": parity.max_abs(whole, on_cpu(*_tensors("cpu", codes.T, numbers))[0]),
    }


def _by_kernels(visit: Visit, made: artefacts.Artefacts, facts: Facts, frames: int) -> float:
    """Largest difference of samples, as streams are served: replayed, behind kept states."""
    precision = next(iter(PRECISIONS))
    decoder, described = gpu_decoder(visit, made, precision)
    if visit.device == "cuda":
        decoder.record(torch.cuda.graph_pool_handle())
    session, codes = on_gpu.session(decoder, described), _random_codes(facts, frames)

    def decoded(codes: np.ndarray, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(session({"codes": codes[None], "new_frames": numbers[None]}))

    whole = decoded(codes.T, np.arange(frames))
    return _joined([decoded(w.codes, w.new_frames) for w in _windows(codes, facts)], whole)


def _random_codes(facts: Facts, frames: int) -> np.ndarray:
    """int64 (frames, codebooks)."""
    sizes = np.array(facts.codebook_sizes)
    return np.random.default_rng(0).integers(0, sizes, (frames, len(sizes)))


def _windows(codes: np.ndarray, facts: Facts) -> Iterator[Window]:
    """As a stream of these codes is cut."""
    schedule, frames = ChunkSchedule(8, 64, facts.history_frames), len(codes)
    while schedule.start < frames:
        yield schedule.cut(codes, "stop" if frames - schedule.start <= schedule.size else "")


def _joined(parts: list[Tensor], whole: Tensor) -> float:
    """The largest difference; the last part may have padding at its end."""
    return parity.max_abs(torch.cat(parts, 1)[:, : whole.shape[1]], whole)


def _codes(run: Run, on_cpu: Run, facts: Facts, frames: int, device: str) -> dict[str, float]:
    """Shares of codes that differ."""
    samples = frames * facts.samples_per_frame
    waveform = parity.test_signal(1, samples, facts.sample_rate)
    pieces, whole = (torch.tensor([[n]]) for n in (CHUNK_FRAMES, frames))
    expected = on_cpu(waveform, pieces)[0]
    waveform = waveform.to(device)
    codes = {n: run(waveform, n_frames.to(device))[0].cpu()
             for n, n_frames in (("pieces", pieces), ("whole", whole))}  # fmt: skip
    return {
        "codes_pieces_vs_whole": parity.differing(codes["pieces"], codes["whole"]),
        "codes_vs_cpu": parity.differing(codes["pieces"], expected),
    }


def _tensors(device: str, *arrays: np.ndarray) -> list[Tensor]:
    """A batch of one."""
    return [torch.from_numpy(np.ascontiguousarray(a))[None].to(device) for a in arrays]
