"""Runs several syntheses concurrently, and gives what they produce in the order of the script."""

import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeAlias

from voicereel.audio import Audio, AudioChunk
from voicereel.errors import Cancelled, VoiceReelError

Sound: TypeAlias = Audio | AudioChunk
# What a synthesis gives: sounds, then None for its end, or the error it failed with.
Event: TypeAlias = Sound | VoiceReelError | None


def in_script_order(
    speak: Callable[[int], Generator[Sound]],
    start_order: Iterable[int],
    *,
    max_workers: int,
    keep_going: bool,
    stop: threading.Event,
) -> Generator[tuple[int, Event]]:
    """Run `speak(0)`, `speak(1)`, ... in threads; yield number and event, sorted by number.

    After a failure no further synthesis starts unless `keep_going`; those with a smaller number
    that are in flight are still yielded. Sounds that arrive before their turn are kept in memory,
    so a slow consumer delays no synthesis.

    Args:
        speak: Gives the sounds of a number; closing the generator cancels its request.
        start_order: Every number from 0, in the order in which to start them.
        max_workers: Syntheses in flight at a time.
        keep_going: True yields an error and goes on; False raises it.
        stop: Set it to stop the whole run. It is also set when this generator ends.

    Raises:
        VoiceReelError: The error that a synthesis failed with.
        Cancelled: If `stop` was set before the end.
    """
    order = list(start_order)
    syntheses = _Syntheses(speak, len(order), stop, stop_at_failure=not keep_going)
    pool = ThreadPoolExecutor(max_workers, thread_name_prefix="voicereel")
    try:
        futures = {  # a worker speaks for the caller of this generator
            number: pool.submit(contextvars.copy_context().run, syntheses.run, number)
            for number in order
        }
        for number in range(len(order)):
            while (sound := syntheses.arrived[number].get()) is not None:
                yield number, sound
            failure = futures[number].exception()  # waits a moment: the None comes before it
            if isinstance(failure, VoiceReelError) and keep_going:
                yield number, failure
                continue
            if failure or not futures[number].result():
                first = next(iter(syntheses.failures), Cancelled("stopped before the end"))
                raise failure or first
            yield number, None
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


class _Syntheses:
    """What the worker threads share: a queue of sounds for each number, and the failures so far."""

    def __init__(
        self,
        speak: Callable[[int], Generator[Sound]],
        count: int,
        stop: threading.Event,
        *,
        stop_at_failure: bool,
    ) -> None:
        self._speak, self._stop, self._stop_at_failure = speak, stop, stop_at_failure
        self.arrived: list[queue.SimpleQueue[Sound | None]] = [
            queue.SimpleQueue() for _ in range(count)
        ]
        self.failures: list[VoiceReelError] = []

    def run(self, number: int) -> bool:
        """Queue the sounds of one synthesis, and None; returns whether it came to its end."""
        try:
            if self._stop.is_set() or self.failures:
                return False
            with closing(self._speak(number)) as sounds:
                for sound in sounds:
                    self.arrived[number].put(sound)
                    if self._stop.is_set():
                        return False
            return True
        except VoiceReelError as error:
            if self._stop_at_failure:
                self.failures.append(error)
            raise
        finally:
            self.arrived[number].put(None)
