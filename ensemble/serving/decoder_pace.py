"""Tells the LLaMA stage how far its decoder is, from Triton's own statistics of it.

Windows leave the stage, and nothing comes back to it: what the decoder makes of them only the
server knows.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tritonclient.grpc import InferenceServerClient

from engine.schedule.scheduler import Scheduler
from ensemble.serving import own_server

DECODER, STAGE = "fish_decoder", "fish_llama"
LOOK_S = 0.5  # seconds between two looks; each is a message to the server
FEWEST = 4  # windows that must have been decoded between two looks that are compared
NO_WAIT_S = 0.02  # who waits for less, Triton's 3 ms for a batch included, finds the decoder idle
_TIMEOUT_S = 5.0


class Counters(NamedTuple):
    """What was done so far.

    Attributes:
        waited_s: Seconds that all windows have waited for the decoder.
        decoding_s: Seconds of all the decoder's instances.
        decoded: Windows that it has decoded.
        frames: That the stage has made.
        cut: Windows that the stage has cut of them.
    """

    waited_s: float
    decoding_s: float
    decoded: int
    frames: int
    cut: int


def frame_s(before: Counters, now: Counters, stages: int, decoders: int) -> float:
    """Seconds that the decoder takes for a frame of one of this stage's streams.

    Each of several stages is taken to send it the same number of streams.

    Args:
        before, now: Two looks.
        stages, decoders: Instances of both.

    Returns:
        0 while too few windows have been decoded since.
    """
    _, seconds, decoded, frames, cut = (b - a for a, b in zip(before, now, strict=True))
    if decoded < FEWEST or not cut or not frames:
        return 0.0
    return seconds / (decoded * frames / cut) * stages / decoders


class DecoderPace:
    """Looks at the decoder for one scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._client: Any = None
        self._stages = self._decoders = 1
        self._last: Counters | None = None
        self._compared: Counters | None = None  # with which the pace was told the last time

    def look(self) -> None:
        """Compare with the last look, and tell the scheduler.

        Raises:
            RuntimeError: If the server cannot be reached, or InferenceServerException.
        """
        backlog, estimate = self._scheduler.outbox.backlog, self._scheduler.real_time
        if not (self._scheduler.busy() or backlog.seconds()):
            self._last = self._compared = None  # from before a pause
            return
        if self._client is None:  # not earlier: the server opens its ports after loading models
            self._client = InferenceServerClient(
                own_server.grpc_url(), channel_args=own_server.CHANNEL_ARGS
            )
            self._stages, self._decoders = self._instances(STAGE), self._instances(DECODER)
        now = self._counters()
        pace_s = 0.0
        if self._compared is None:
            self._compared = now
        elif pace_s := frame_s(self._compared, now, self._stages, self._decoders):
            self._compared = now
            if estimate is not None:
                estimate.decoded(pace_s)
        backlog.looked(now.decoded // self._stages, self._was_idle(now), pace_s)
        self._last = now

    def _was_idle(self, now: Counters) -> bool:
        if self._last is None:
            return False
        decoded = now.decoded - self._last.decoded
        return decoded > 0 and now.waited_s - self._last.waited_s < decoded * NO_WAIT_S

    def _counters(self) -> Counters:
        found = self._client.get_inference_statistics(DECODER, client_timeout=_TIMEOUT_S)
        models = found.model_stats
        done = sum(batch.compute_infer.ns for model in models for batch in model.batch_stats)
        waited = sum(model.inference_stats.queue.ns for model in models)
        decoded = sum(model.inference_count for model in models)
        stepper = self._scheduler.stepper
        return Counters(waited / 1e9, done / 1e9, decoded, stepper.frames, stepper.windows)

    def _instances(self, model: str) -> int:
        config = self._client.get_model_config(model, client_timeout=_TIMEOUT_S).config
        return max(1, sum(g.count * max(1, len(g.gpus)) for g in config.instance_group))


def watch_decoder(scheduler: Scheduler, warn: Callable[[str], object]) -> None:
    """Look in a thread, while there is work.

    Args:
        scheduler: Of the LLaMA stage.
        warn: Told the first time that the server does not answer; what was known then counts on.
    """
    pace = DecoderPace(scheduler)

    def watch() -> None:
        told = False
        while True:
            time.sleep(LOOK_S)
            try:
                pace.look()
            except Exception as problem:  # an estimate without the decoder is better than none
                if not told:
                    warn(f"{STAGE}: how long {DECODER} takes is not known: {problem}")
                told = True

    threading.Thread(target=watch, daemon=True).start()
