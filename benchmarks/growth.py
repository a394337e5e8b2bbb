"""How a cost grows with size."""

from collections.abc import Sequence

import numpy as np


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log(seconds) over log(size) in the upper half of the points; 1 is linear."""
    half = len(sizes) // 2
    slope, _ = np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)
    return float(slope)


def bend(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Cost of one more over the last interval, divided by that over all; 1 is a straight line."""
    last = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
    return last / ((seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0]))
