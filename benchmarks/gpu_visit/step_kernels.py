"""Where a GPU's time goes: the three slowest kernels of a decode step and of a codec window."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_visit import artefacts, clock, step_llama
from benchmarks.gpu_visit.decoder import PRECISIONS, gpu_decoder
from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import Visit
from benchmarks.speed import engine
from benchmarks.speed.artefacts import script
from ensemble.contract.facts import Facts

STEPS = 3  # profiled together
SHOWN = 3


@torch.inference_mode()
def run(visit: Visit, results: Results) -> None:
    """Profile what is served, once warm."""
    llama = step_llama.load(visit, "half")
    for batch in (1,) if visit.tiny else (1, 16):
        running = engine.filled(llama, batch, 64 if visit.tiny else 512, 2 + STEPS)
        for _ in range(2):
            running.step()  # kernels are compiled, launches recorded
        calls = slowest(lambda r=running: [r.step() for _ in range(STEPS)], visit.device)
        results.put(f"decode_step_batch_{batch}", calls)
    folder = artefacts.served(visit).repository / "fish_decoder" / "1"
    facts, new = Facts.load(folder.parents[1] / "fish_llama" / "1"), 8 if visit.tiny else 64
    codes = torch.zeros(1, facts.num_codebooks, new, dtype=torch.int64, device=visit.device)
    numbers = torch.arange(new, device=visit.device)[None]
    decode = script(folder, visit.device)
    decode(codes, numbers)
    results.put(f"codec_window_{new}", slowest(lambda: decode(codes, numbers), visit.device))
    served, _ = gpu_decoder(visit, artefacts.served(visit), next(iter(PRECISIONS)))

    def by_kernels() -> None:
        served.resume(codes, numbers, 0, *served.begin(1))

    by_kernels()
    results.put(f"codec_window_{new}_by_kernels", slowest(by_kernels, visit.device))


def slowest(call: Callable[[], Any], device: str) -> list[dict[str, Any]]:
    """The kernels (on a CPU the operators) that take most of a call's time.

    Returns:
        Of each: name, how often it ran, its ms in all, and its share of all kernels' time.
    """
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] * on_gpu)]
    with profile(activities=activities) as profiled:
        call()
        clock.wait(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"  # microseconds
    events: list[Any] = [e for e in profiled.key_averages() if e.device_type == wanted]
    total = sum(getattr(e, field) for e in events) or 1
    events.sort(key=lambda e: -getattr(e, field))
    return [
        {
            "kernel": e.key[:100],
            "calls": e.count,
            "ms": getattr(e, field) / 1e3,
            "share": getattr(e, field) / total,
        }
        for e in events[:SHOWN]
    ]
