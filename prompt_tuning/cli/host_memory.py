"""Memory of a process that computes on the CPU: kept from step to step.

XLA takes one large block for what a step computes and gives it back after the step.
glibc returns such a block to the kernel, which must clear every page of it again for the
next step: a tenth to a quarter of the time of a step (`docs/performance.md`).
"""

import ctypes
import importlib.util
import os
import sys

# Of malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
ACCELERATORS = ("jax_plugins", "libtpu")


def keep_freed() -> bool:
    """Lets glibc keep what is freed. To be called before threads start; says whether it could.

    Not where an accelerator computes: there the host's memory is for loading only, and is
    to be given back.
    """
    if sys.platform != "linux" or not _computes_on_cpu():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    # Blocks of any size come from the heap, of which there is one, and which does not shrink.
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
    return all([mallopt(name, value) == 1 for name, value in settings])


def _computes_on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(map(importlib.util.find_spec, ACCELERATORS))
