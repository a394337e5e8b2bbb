"""How commands end: files are closed first, whatever the end, and the status is Unix's."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

# Signals that end a process without a word to it, by default. Windows has no SIGHUP.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_LONGEST_S = 30  # that a command may take to end in order
_BROKEN_PIPE = 128 + 13  # what a shell says of a program that SIGPIPE has ended


class Stopped(BaseException):
    """A signal arrived that ends the process; no `except Exception` holds it up.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Commands(TyperGroup):
    """Runs a command; a signal or a reader who has left ends it in order."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _signals_raised():
                result = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return result
        except BrokenPipeError:
            _forget_output()
            raise typer.Exit(_BROKEN_PIPE) from None
        except Stopped as stopped:
            signal.signal(stopped.number, signal.SIG_DFL)
            os.kill(os.getpid(), stopped.number)  # threads that still wait do not hold it up


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise `Stopped` for signals; a second one ends the process at once.

    So does time: an exception that comes in the middle of a destructor or a callback is lost.
    """

    def stop(number: int, _: object) -> None:
        for ending in changed:
            signal.signal(ending, signal.SIG_DFL)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
            signal.setitimer(signal.ITIMER_REAL, _LONGEST_S)
        raise Stopped(number)

    changed = []
    if threading.current_thread() is threading.main_thread():  # else Python refuses
        # nohup ignores SIGHUP: that stays so.
        changed = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.SIG_DFL)


def _forget_output() -> None:
    """Let Python's own last flush go nowhere, since it would fail and say so."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # no file, as in tests
        pass
