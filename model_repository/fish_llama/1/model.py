"""fish_llama: prompt and options -> windows of codes, decoupled. See `ensemble.contract.tensors`.

Each response holds one window for fish_decoder and what the caller must know of it. The stream
is closed with FINAL exactly once, after the last window or after an error.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from engine.lm.llama import Llama
from engine.schedule.chunk_schedule import Window
from engine.schedule.memory import MAX_SLOTS, positions_that_fit
from engine.schedule.request import Request
from engine.schedule.scheduler import Engine
from ensemble.contract.errors import CancelledError, kind_of
from ensemble.contract.facts import Facts
from ensemble.contract.options import OPTIONS, sampling_from
from ensemble.contract.settings import Settings, settings_from
from ensemble.serving import wire
from ensemble.serving.cancel import CancelToken
from ensemble.serving.metrics import LlamaMetrics


def _engine(folder: Path, settings: Settings) -> Engine:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    llama = Llama(folder, settings)
    slots = settings.slots or MAX_SLOTS.get(llama.device.type, 16)
    positions = positions_that_fit(llama.facts, llama.dtype, llama.device)
    engine = Engine(llama, slots, max_positions=positions)
    engine.warm_up()
    return engine


class TritonPythonModel:
    """One engine, on the device that Triton gave this instance."""

    def initialize(self, args: dict) -> None:
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        settings = settings_from(device=device)
        # All that computes is one thread's: OpenMP gives each thread that does a team of its own,
        # and with more threads than cores none waits awake any more, which halves the speed.
        self.worker = ThreadPoolExecutor(1, "engine")
        self.engine = self.worker.submit(_engine, wire.version_folder(args), settings).result()
        self.facts, llama = self.engine.llama.facts, self.engine.llama
        self.metrics = LlamaMetrics()
        self.worker.submit(self._run)
        int8 = " with int8 weights" * settings.int8
        slow = f", without kernels: {llama.no_kernels}" if llama.no_kernels else ""
        exact = "" if llama.exact_in_company else ", rounding depends on company on this machine"
        pb_utils.Logger.log_info(
            f"fish_llama: {self.engine.slots} slots, {llama.dtype}{int8} on {settings.device}, "
            f"{torch.get_num_threads()} threads, KV cache up to "
            f"{self.engine.kv_bytes_limit / 2**20:.0f} MiB{exact}{slow}"
        )

    def execute(self, requests: list) -> None:
        for request in requests:
            stream = Stream(request, self.facts, self.metrics)
            try:
                stream.token = CancelToken(request.parameters())
                self.engine.submit(self._parsed(request, stream))
            except Exception as problem:
                stream.fail(problem)

    def finalize(self) -> None:
        self.engine.close()
        self.worker.shutdown()
        self.metrics.close()

    def _run(self) -> None:
        self.engine.run(after_step=lambda: self.metrics.publish(self.engine))

    def _parsed(self, request, stream: Stream) -> Request:
        asked = {o.name: wire.array(request, o.name) for o in OPTIONS}
        sampling = sampling_from({n: v[0].item() for n, v in asked.items() if v is not None})
        prompt = wire.required(request, "prompt")
        self._check(prompt)
        prefix = wire.array(request, "prefix_length")
        prefix_length = 0 if prefix is None else int(prefix[0])
        if not 0 <= prefix_length < max(1, prompt.shape[1]):
            raise ValueError(f"prefix_length is {prefix_length}, expected less than the prompt has")
        return Request(prompt, sampling, stream.send, stream.fail, stream.why_over, prefix_length)

    def _check(self, prompt: np.ndarray) -> None:
        facts = self.facts
        rows = 1 + facts.num_codebooks
        if prompt.ndim != 2 or prompt.shape[0] != rows:
            raise ValueError(f"prompt has shape {list(prompt.shape)}, expected [{rows}, positions]")
        limits = np.array([facts.vocab_size] + [facts.num_semantic] * (rows - 1))[:, None]
        if ((prompt < 0) | (prompt >= limits)).any():
            raise ValueError("prompt holds a token or code that the checkpoint does not have")


class Stream:
    """The way back to one caller. Called from the engine's thread, but for an early `fail`."""

    def __init__(self, request, facts: Facts, metrics: LlamaMetrics) -> None:
        self.sender, self.facts, self.metrics = request.get_response_sender(), facts, metrics
        self.token: CancelToken | None = None
        self.begin = time.monotonic()
        self.timeout_s = request.timeout() / 1e6
        self.num_sent = 0

    def why_over(self) -> str:
        """What the engine asks once per frame: has the caller left, is his time over?"""
        if self.sender.is_cancelled() or (self.token is not None and self.token.taken_back):
            return "by the caller"
        if self.timed_out:
            return f"its timeout of {self.timeout_s:g} s has passed"
        return ""

    @property
    def timed_out(self) -> bool:
        """Whether the request's own timeout has passed."""
        return bool(self.timeout_s) and time.monotonic() - self.begin > self.timeout_s

    def send(self, window: Window) -> None:
        self.num_sent += 1
        is_last = bool(window.finish_reason)
        if window.index == 0:
            self.metrics.count_first_window(time.monotonic() - self.begin)
        samples = window.num_frames * self.facts.samples_per_frame
        response = pb_utils.InferenceResponse(
            [
                wire.tensor("codes", window.codes, np.int64),
                wire.tensor("new_frames", window.new_frames, np.int64),
                wire.tensor("chunk_index", [window.index], np.int32),
                wire.tensor("num_samples", [samples], np.int32),
                wire.tensor("is_last", [is_last], np.bool_),
                wire.tensor("finish_reason", [window.finish_reason], np.object_),
                wire.tensor("sample_rate", [self.facts.sample_rate], np.int32),
            ]
        )
        if is_last:
            self.metrics.count_outcome(window.finish_reason)
        self._send(response, is_last)

    def fail(self, problem: Exception) -> None:
        """End the stream with an error.

        With a last, empty chunk once chunks have left and the caller has gone or his time is over:
        an ensemble that sees an error while another step is at work keeps the request for ever
        (Triton 24.10; core's pull request 466).
        """
        if isinstance(problem, CancelledError) and self.num_sent:
            reason = "timeout" if self.timed_out else "cancelled"
            nothing = np.zeros((self.facts.num_codebooks, 1), np.int64)
            return self.send(Window(nothing, np.array([-1]), self.num_sent, 0, reason))
        code = kind_of(problem).code
        given_up = code in ("UNAVAILABLE", "CANCELLED")
        self.metrics.count_outcome(code.lower() if given_up else "refused or failed")
        self._send(wire.error("fish_llama", problem), final=True)

    def _send(self, response: pb_utils.InferenceResponse, final: bool) -> None:
        if final and self.token is not None:
            self.token.end()
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self.sender.send(response, flags=flags)
