"""The way back to one caller of the LLaMA stage. Imports only in a server."""

from __future__ import annotations  # pb_utils gets its classes only after this import

import math
import time

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract.errors import CancelledError, kind_of
from ensemble.contract.facts import Facts
from ensemble.contract.parameters import timeout_us
from ensemble.contract.window import Window
from ensemble.serving import wire
from ensemble.serving.cancel import CancelToken
from ensemble.serving.metrics import LlamaMetrics

ASK_S = 0.1  # seconds between two questions to Triton, 0.1 ms each, whether the caller has left


class Stream:
    """A decoupled response stream, closed with FINAL exactly once.

    What answers is called from the thread that sends, but for a `fail` before the request is
    queued; `why_cancelled` from the scheduler's.

    Attributes:
        token: The request's cancel token, once its parameters have been read.
        timeout_s: The request's own timeout, seconds; 0 for none.
    """

    def __init__(self, request, facts: Facts, metrics: LlamaMetrics) -> None:
        self._sender, self._facts, self._metrics = request.get_response_sender(), facts, metrics
        self._request_id = request.request_id()
        self.token: CancelToken | None = None
        self._largest = np.array(facts.codebook_sizes, np.int64)[:, None] - 1
        self._begin = time.monotonic()
        self.timeout_s = 0.0
        self._num_sent = 0
        self._problem: Exception | None = None  # a window could not be sent
        self._asked_s, self._has_left = -math.inf, False

    def obey(self, request, asked: wire.Accepted) -> None:
        """Take the cancel token and the timeout of the request.

        Raises:
            ValueError: If one of them is unusable.
        """
        self.timeout_s = timeout_us(request.timeout(), asked.parameters) / 1e6
        self.token = CancelToken(request.parameters())

    def why_cancelled(self) -> str:
        """Why the caller does not want the rest, or "". The scheduler asks once per step."""
        if self._caller_has_left():
            return "by the caller"
        if self._timed_out:
            return f"its timeout of {self.timeout_s:g} s has passed"
        return "" if self._problem is None else str(self._problem)

    def _caller_has_left(self) -> bool:
        if self.token is not None and self.token.taken_back:
            return True
        now = time.monotonic()
        if now - self._asked_s >= ASK_S:
            self._asked_s, self._has_left = now, self._sender.is_cancelled()
        return self._has_left

    @property
    def _timed_out(self) -> bool:
        """Whether the request's own timeout has passed."""
        return bool(self.timeout_s) and time.monotonic() - self._begin > self.timeout_s

    def send(self, window: Window) -> None:
        """Send a window; the last one ends the stream.

        If that fails, this stream ends with an error, and no other does.
        """
        try:
            self._send_window(window)
        except Exception as problem:  # the server has no shared memory left, for instance
            self._problem = problem
            if window.finish_reason:  # the scheduler has let go of the request and will not ask
                self.fail(problem)

    def _send_window(self, window: Window) -> None:
        self._num_sent += 1
        is_last = bool(window.finish_reason)
        if window.index == 0:
            self._metrics.count_first_window(time.monotonic() - self._begin)
        samples = window.num_frames * self._facts.samples_per_frame
        response = pb_utils.InferenceResponse(
            [
                # A language model may have more codes than the codec has entries: S2-Pro's does.
                # Upstream's codec takes the last entry for those, and the next frame knows them.
                wire.tensor("codes", np.minimum(window.codes, self._largest), np.int64),
                wire.tensor("new_frames", window.new_frames, np.int64),
                wire.tensor("chunk_index", [window.index], np.int32),
                wire.tensor("num_samples", [samples], np.int32),
                wire.tensor("is_last", [is_last], np.bool_),
                wire.tensor("finish_reason", [window.finish_reason], np.object_),
                wire.tensor("sample_rate", [self._facts.sample_rate], np.int32),
            ]
        )
        if is_last:
            self._metrics.count_outcome(window.finish_reason)
        self._respond(response, is_last)

    def fail(self, problem: Exception) -> None:
        """End the stream with an error.

        If the caller has gone or the timeout has passed after chunks have left, it ends with an
        empty last chunk instead: an ensemble that sees an error while another of its steps is at
        work keeps the request forever (Triton 24.10; core's pull request 466).
        """
        problem = self._problem or problem
        if isinstance(problem, CancelledError) and self._num_sent:
            reason = "timeout" if self._timed_out else "cancelled"
            nothing = np.zeros((self._facts.num_codebooks, 1), np.int64)
            return self.send(Window(nothing, np.array([-1]), self._num_sent, 0, reason))
        code = kind_of(problem).code
        given_up = code in ("UNAVAILABLE", "CANCELLED")
        self._metrics.count_outcome(code.lower() if given_up else "refused or failed")
        try:
            self._respond(wire.error("fish_llama", problem, self._request_id), final=True)
        except Exception as trouble:  # raised, it would end the scheduler's thread
            pb_utils.Logger.log_error(f"fish_llama: a caller was not told of {problem}: {trouble}")

    def _respond(self, response: pb_utils.InferenceResponse, final: bool) -> None:
        if final and self.token is not None:
            self.token.end()
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._sender.send(response, flags=flags)
