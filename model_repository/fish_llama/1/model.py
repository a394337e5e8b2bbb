"""fish_llama: prompt and options -> windows of codes, decoupled. See `ensemble.contract.tensors`.

Each response holds one window for fish_decoder and what the caller must know of it; see
`ensemble.serving.stream` for how a stream ends.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from engine.lm.load import load_runner
from engine.lm.on_torch import TorchRunner
from engine.lm.placement import placement_for
from engine.schedule.memory import MAX_SLOTS, positions_that_fit
from engine.schedule.real_time import RealTime
from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler
from engine.schedule.warm_up import warm_up
from ensemble.contract.manifest import refuse_changed
from ensemble.contract.options import OPTIONS, sampling_from
from ensemble.contract.settings import ServerSettings, server_settings
from ensemble.serving import wire
from ensemble.serving.decoder_pace import watch_decoder
from ensemble.serving.metrics import LlamaMetrics
from ensemble.serving.own_server import end_with_it
from ensemble.serving.stream import Stream


def _loaded(folder: Path, settings: ServerSettings, instance: str) -> tuple[TorchRunner, Scheduler]:
    if settings.llama_threads:
        torch.set_num_threads(settings.llama_threads)
    runner = load_runner(folder, placement_for(settings, instance))
    slots = settings.batch_size or MAX_SLOTS[runner.device.type]
    positions = positions_that_fit(runner.facts, runner.dtype, runner.device)
    wait_s = settings.queue_s or math.inf
    frame_s = runner.facts.samples_per_frame / runner.facts.sample_rate
    scheduler = Scheduler(
        runner, slots, max_positions=positions, max_wait_s=wait_s,
        real_time=None if settings.real_time == "off" else RealTime(frame_s),
        refuses=settings.real_time == "refuse",
    )  # fmt: skip
    warm_up(scheduler)
    return runner, scheduler


class TritonPythonModel:
    """One scheduler, on the device that Triton gave this instance."""

    def initialize(self, args: dict) -> None:
        end_with_it()
        on_gpu = args["model_instance_kind"] == "GPU"
        instance = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        settings, folder = server_settings(), wire.version_folder(args)
        # One thread does all that computes: OpenMP gives every thread that calls it a team of its
        # own, and with more threads than cores none of them waits awake, which halves the speed.
        self.worker = ThreadPoolExecutor(1, "scheduler")
        self.sender = ThreadPoolExecutor(1, "sender")  # one: answers leave in order
        loaded = self.worker.submit(_loaded, folder, settings, instance)
        refuse_changed(folder, warn=pb_utils.Logger.log_warn)  # meanwhile: about 0.7 s a GB
        runner, self.scheduler = loaded.result()
        self.facts, self.metrics = runner.facts, LlamaMetrics()
        self.worker.submit(self.scheduler.run, self.metrics.publish)
        watch_decoder(self.scheduler, pb_utils.Logger.log_warn)
        pb_utils.Logger.log_info(f"fish_llama: {self._described(runner)}")
        if self.facts.notice:
            pb_utils.Logger.log_info(f"fish_llama: {self.facts.notice}")

    def _described(self, runner: TorchRunner) -> str:
        """For the log: what serves, and why not something faster."""
        limit = self.scheduler.kv_bytes_limit / 2**20
        rounding = runner.placement.rounding
        if rounding and runner.why_no_kernels:
            rounding = "int8"  # torch has no 4 bits
        rounded = f" with {rounding} weights" * bool(rounding)
        slow = f", without kernels: {runner.why_no_kernels}" * bool(runner.why_no_kernels)
        most = self.scheduler.batch.in_time
        in_time = "" if most is None else f", {most} streams in time to begin with"
        varies = ", rounding depends on the batch on this machine" * (not runner.batch_invariant)
        return (
            f"{self.scheduler.batch.slots} slots, {runner.dtype}{rounded} on {runner.device}, "
            f"{torch.get_num_threads()} threads, KV cache up to {limit:.0f} MiB"
            f"{in_time}{varies}{slow}"
        )

    def execute(self, requests: list) -> None:
        for request in requests:
            stream = Stream(request, self.facts, self.metrics)
            try:
                asked = wire.Accepted("fish_llama", request)
                stream.obey(request, asked)
                self.scheduler.submit(self._parsed(asked, stream))
            except Exception as problem:
                stream.fail(problem)

    def finalize(self) -> None:
        self.scheduler.close()
        self.worker.shutdown()
        self.sender.shutdown()
        self.metrics.close()

    def _parsed(self, asked: wire.Accepted, stream: Stream) -> Request:
        options = {o.name: asked.arrays[o.name] for o in OPTIONS}
        given = {n: v[0].item() for n, v in options.items() if v is not None}
        sampling = sampling_from(given, self.facts)
        prompt = asked.given("prompt")
        self._check(prompt)
        prefix = asked.arrays["prefix_length"]
        prefix_length = 0 if prefix is None else int(prefix[0])
        if not 0 <= prefix_length < max(1, prompt.shape[1]):
            raise ValueError(f"prefix_length is {prefix_length}, expected less than the prompt has")
        parts = asked.arrays["prompt_parts"]
        lengths = () if parts is None else tuple(int(length) for length in parts)
        if lengths and (min(lengths) < 1 or sum(lengths) != prompt.shape[1]):
            raise ValueError(f"prompt_parts is {lengths}, expected to add up to the prompt")
        answers = self._sent(stream.send), self._sent(stream.fail), stream.why_cancelled
        patience_s = stream.timeout_s or math.inf
        return Request(prompt, sampling, *answers, prefix_length, lengths, patience_s)

    def _sent(self, answer: Callable[[Any], None]) -> Callable[[Any], None]:
        """The same in the thread that sends: an answer takes Triton 0.5 ms, a step on a GPU 4."""

        def send(content: Any) -> None:
            self.sender.submit(answer, content)

        return send

    def _check(self, prompt: np.ndarray) -> None:
        facts = self.facts
        rows = 1 + facts.num_codebooks
        if prompt.ndim != 2 or prompt.shape[0] != rows:
            raise ValueError(f"prompt has shape {list(prompt.shape)}, expected [{rows}, positions]")
        limits = np.array([facts.vocab_size] + [facts.num_semantic] * (rows - 1))[:, None]
        if ((prompt < 0) | (prompt >= limits)).any():
            raise ValueError("prompt holds a token or code that the checkpoint does not have")
