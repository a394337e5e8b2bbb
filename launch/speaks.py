"""`python -m launch.speaks`: does a server speak? For those who run tritonserver by itself.

Exits with 0 if it does and 1 if not, and says why in one line. It asks through the doors that
callers use, has one frame spoken, and takes about 0.2 s: often enough every five seconds.
"""

import argparse
import signal
import sys
from types import FrameType

from launch import doors

TIMEOUT_S = 4.0


class _TooLate(BaseException):  # no OSError, which would be taken for an answer
    pass


def why_not(host: str, port: int, timeout_s: float) -> str:
    """Why a server cannot be used, or "".

    Args:
        host: Where it listens.
        port: Its HTTP service.
        timeout_s: Seconds that each answer may take.
    """
    return doors.is_ready(host, port, timeout_s) or doors.speak(host, port, timeout_s)


def main() -> None:
    """Parse arguments, probe, and exit."""
    parser = argparse.ArgumentParser(prog="python -m launch.speaks", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="Seconds for all of it.")
    asked = parser.parse_args()
    if not 0 < asked.timeout < 3600:
        parser.error(f"--timeout is {asked.timeout:g}, expected more than 0 seconds")

    def too_late(number: int, frame: FrameType | None) -> None:
        raise _TooLate

    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, asked.timeout)  # also for answers that drip
    try:
        problem = why_not(asked.host, asked.http_port, asked.timeout)
    except _TooLate:
        problem = f"no answer after {asked.timeout:g} s"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"{asked.host}:{asked.http_port}: {problem or 'speaks'}")
    sys.exit(1 if problem else 0)


if __name__ == "__main__":
    main()
