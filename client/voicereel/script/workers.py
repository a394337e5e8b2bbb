"""Several syntheses in flight, heard in order."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeAlias

from voicereel.audio import Audio, AudioChunk
from voicereel.errors import Cancelled, VoiceReelError

Sound: TypeAlias = Audio | AudioChunk


def heard_in_order(
    speak: Callable[[int], Generator[Sound]],
    order: Iterable[int],
    *,
    max_workers: int,
    keep_going: bool,
    stop: threading.Event,
) -> Generator[tuple[int, Sound | VoiceReelError | None]]:
    """Run `speak(0)`, `speak(1)`, ... in threads; yield what comes, by number.

    After the sounds of a number comes once None, or the error it failed with. After a failure
    nothing more is begun unless `keep_going`; what is in flight before it is still heard. Sounds
    that wait to be heard are kept in memory: a slow consumer holds up no synthesis.

    Args:
        speak: Gives the sounds of a number; closing it cancels.
        order: Every number from 0, in the order to begin them.
        max_workers: In flight at a time.
        keep_going: Whether to yield an error and go on, or to raise it.
        stop: Set it to give up; set when this ends, on whatever path.

    Raises:
        VoiceReelError: What one failed with.
        Cancelled: If `stop` was set before the end.
    """
    order = list(order)
    arrived: list[queue.SimpleQueue[Sound | None]] = [queue.SimpleQueue() for _ in order]
    failures: list[VoiceReelError] = []

    def run(number: int) -> bool:
        """Whether all was said."""
        try:
            if stop.is_set() or failures:
                return False
            with closing(speak(number)) as sounds:
                for sound in sounds:
                    arrived[number].put(sound)
                    if stop.is_set():
                        return False
            return True
        except VoiceReelError as error:
            if not keep_going:
                failures.append(error)
            raise
        finally:
            arrived[number].put(None)

    pool = ThreadPoolExecutor(max_workers, thread_name_prefix="voicereel")
    try:
        futures = {number: pool.submit(run, number) for number in order}
        for number in range(len(order)):
            while (sound := arrived[number].get()) is not None:
                yield number, sound
            failure = futures[number].exception()  # waits for the little that follows the None
            if isinstance(failure, VoiceReelError) and keep_going:
                yield number, failure
                continue
            if failure or not futures[number].result():
                raise failure or next(iter(failures), Cancelled("given up before the end"))
            yield number, None
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
