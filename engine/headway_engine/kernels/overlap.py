"""Lets a kernel begin while the one before it still runs: programmatic dependent launch, of Hopper GPUs and later ones.

    let_next_start()      at the beginning of each program: the next kernel may take what room is left on the GPU
    wait_for_previous()   before anything is read that a kernel wrote, and before anything is written: all kernels before
                          this one have ended

Every program of a kernel that is launched with `LAUNCH` waits, so waiting for one kernel is waiting for all before it. On
older GPUs each of these does nothing. Asking L2 for the first weights before the wait was tried, and made steps longer.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_SUPPORTED = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
_ENABLED = tl.constexpr(_SUPPORTED)
# Options of a launch that may begin early.
LAUNCH = {"launch_pdl": _SUPPORTED}


@triton.jit
def let_next_start():
    """Allow the next kernel to begin."""
    if _ENABLED:
        gdc_launch_dependents()


@triton.jit
def wait_for_previous():
    """Wait for all kernels before this one."""
    if _ENABLED:
        gdc_wait()
