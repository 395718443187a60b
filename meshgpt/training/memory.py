"""How a training on a CPU holds on to memory."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt's settings in malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed for what is made next, in this process from now on; False where it cannot.

    Else every large tensor is handed back when it is freed and comes as fresh pages in the next step, which the system
    fills with zeros one by one. That shows where products are fast, as in bfloat16.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library than glibc
        return False
    return bool(mallopt(MMAP_THRESHOLD, NEVER)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
