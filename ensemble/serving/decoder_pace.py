"""Tells the LLaMA stage how long its decoder takes, from Triton's own statistics of it.

Windows leave the stage, and nothing comes back to it: what the decoder makes of them only the
server knows.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tritonclient.grpc import InferenceServerClient

from engine.schedule.real_time import RealTime
from engine.schedule.scheduler import Scheduler
from ensemble.serving import own_server

DECODER, STAGE = "fish_decoder", "fish_llama"
LOOK_S = 0.5  # seconds between two looks; each is a message to the server
FEWEST = 4  # windows that must have been decoded between two looks that are compared
_TIMEOUT_S = 5.0


class Counters(NamedTuple):
    """What was done so far.

    Attributes:
        decoding_s: Seconds of all the decoder's instances.
        decoded: Windows that it has decoded.
        frames: That the stage has made.
        cut: Windows that the stage has cut of them.
    """

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
    seconds, decoded, frames, cut = (b - a for a, b in zip(before, now, strict=True))
    if decoded < FEWEST or not cut or not frames:
        return 0.0
    return seconds / (decoded * frames / cut) * stages / decoders


class DecoderPace:
    """Looks at the decoder for one scheduler, which has an estimate of its streams in time."""

    def __init__(self, scheduler: Scheduler, estimate: RealTime) -> None:
        self._scheduler, self._estimate = scheduler, estimate
        self._client: Any = None
        self._stages = self._decoders = 1
        self._before: Counters | None = None

    def look(self) -> None:
        """Compare with the last look, and tell the estimate.

        Raises:
            RuntimeError: If the server cannot be reached, or InferenceServerException.
        """
        if not self._scheduler.busy():
            self._before = None  # from before a pause
            return
        if self._client is None:  # not earlier: the server opens its ports after loading models
            self._client = InferenceServerClient(
                own_server.grpc_url(), channel_args=own_server.CHANNEL_ARGS
            )
            self._stages, self._decoders = self._instances(STAGE), self._instances(DECODER)
        now = self._counters()
        if self._before is None:
            self._before = now
        elif seconds := frame_s(self._before, now, self._stages, self._decoders):
            self._estimate.decoded(seconds)
            self._before = now

    def _counters(self) -> Counters:
        found = self._client.get_inference_statistics(DECODER, client_timeout=_TIMEOUT_S)
        models = found.model_stats
        done = sum(batch.compute_infer.ns for model in models for batch in model.batch_stats)
        decoded = sum(model.inference_count for model in models)
        stepper = self._scheduler.stepper
        return Counters(done / 1e9, decoded, stepper.frames, stepper.windows)

    def _instances(self, model: str) -> int:
        config = self._client.get_model_config(model, client_timeout=_TIMEOUT_S).config
        return max(1, sum(g.count * max(1, len(g.gpus)) for g in config.instance_group))


def watch_decoder(scheduler: Scheduler, warn: Callable[[str], object]) -> None:
    """Look in a thread, while there is work; does nothing for one that admits all streams.

    Args:
        scheduler: Of the LLaMA stage.
        warn: Told the first time that the server does not answer; what was known then counts on.
    """
    if (estimate := scheduler.real_time) is None:
        return
    pace = DecoderPace(scheduler, estimate)

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
