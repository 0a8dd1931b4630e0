"""Starts kernels, or compiles them side by side; and how many tiles they may have in flight.

A kernel is compiled when a launch brings types, constants or alignments that were not seen before: 0.2 to 0.6 s, and a C compiler's
time for what passes the arguments on. An engine needs some thirty kernels before it can serve. Inside `compiling_together` a
launch runs nothing: its kernel is compiled by a pool of threads, and what follows goes on. Most of that work needs no Python.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import torch
import triton

Layer = TypeVar("Layer")

# The kernels that are being compiled; None while launches run.
_compiling: ContextVar[set[Any] | None] = ContextVar("compiling", default=None)
# A product and the addition behind it are rounded once. It is what Triton does unasked up to 3.9, which warns that 3.10 will not.
_ROUNDED_ONCE = {"enable_fp_fusion": True}
# Of shared memory, for what a kernel keeps beside its tiles.
_SPARE_BYTES = 4096


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch `kernel`, a function of `triton.jit`, on the current stream.

    Args:
        kernel: what to run.
        grid: programs, up to three dimensions.
        arguments: of the kernel.
        options: its constants, and how to compile and launch it.
    """
    compiling = _compiling.get()
    if compiling is None:
        kernel[grid](*arguments, **options, **_ROUNDED_ONCE)
    else:
        compiling.add(kernel.warmup(*arguments, grid=grid, **options, **_ROUNDED_ONCE))


@cache
def shared_memory() -> int:
    """Bytes of it that a program may have on this GPU: 227 KiB on a H100 or H200, 163 on an A100, 99 on a L40S."""
    return torch.cuda.get_device_properties(torch.cuda.current_device()).shared_memory_per_block_optin


def stages(most: int, tile_bytes: int, beside_bytes: int = 0) -> int:
    """Tiles in flight: `most`, or as many as fit into the GPU's shared memory; a kernel that wants more does not start there.

    Args:
        most: what is fastest where there is room.
        tile_bytes: of everything that is loaded for one step of the kernel's loop.
        beside_bytes: what else is kept there all the time.
    """
    return max(1, min(most, (shared_memory() - _SPARE_BYTES - beside_bytes) // tile_bytes))


def to_launch(layers: Sequence[Layer]) -> Sequence[Layer]:
    """All of a model's layers; three while compiling: the first one, one for all between, and the last one."""
    return layers if _compiling.get() is None else (*layers[:2], *layers[2:][-1:])


@contextmanager
def compiling_together() -> Iterator[None]:
    """Have launches of this thread compile and run nothing; at the end all of them are ready to run."""
    kernels: set[Any] = set()
    token = _compiling.set(kernels)
    threads, device = len(os.sched_getaffinity(0)), torch.cuda.current_device()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.cuda.set_device, initargs=(device,)) as pool:
            with triton.AsyncCompileMode(pool):
                yield
            for _ in pool.map(_load, kernels):
                pass
    finally:
        _compiling.reset(token)


def _load(kernel: Any) -> None:
    """Build what passes arguments on to a compiled kernel, and bring both to the device."""
    compiled = kernel.result() if hasattr(kernel, "result") else kernel
    _ = compiled.run
