"""How the C library treats the memory of large tensors."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_INT_MAX = 2**31 - 1  # bytes: never give memory back


def keep_memory() -> None:
    """Have glibc keep for the next layer what the last one has freed.

    Otherwise it gives every large tensor back to the kernel, and the next one, made anew page by
    page, costs a convolution a third of its speed (measured; training/README.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries do without
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _INT_MAX)
