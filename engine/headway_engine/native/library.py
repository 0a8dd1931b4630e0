"""Loads the library and says why it cannot be used. The structs are those of headway.h."""

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int32, c_void_p
from functools import cache
from pathlib import Path
from typing import ClassVar

from headway_engine.native import build

# By what weights are stored as; the library itself is compiled for all of them, but runs only the instructions it needs.
_BASE = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"})
NEEDS = {
    "float32": _BASE | {"avx512_bf16"},
    "bfloat16": _BASE | {"avx512_bf16"},
    "int8": _BASE | {"avx512_bf16", "avx512_vnni"},
}
# The matrix unit; computes where a type has use for it.
AMX = frozenset({"amx_tile", "amx_bf16"})


class Matrix(Structure):
    """See headway.h."""

    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("weight", "scale", "bias")),
        *((name, c_int32) for name in ("groups", "outputs")),
    ]


class Layer(Structure):
    """See headway.h."""

    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("attention_norm", "q_norm", "k_norm", "feed_forward_norm")),
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c_void_p) for name in ("keys", "values")),
    ]


class Model(Structure):
    """See headway.h."""

    _fields_: ClassVar = [
        *((name, c_int32) for name in ("type", "embed_type", "kv_type", "amx")),
        *((name, c_int32) for name in ("hidden", "intermediate", "heads", "kv_heads", "head_dim")),
        *((name, c_int32) for name in ("vocabulary", "block_size", "num_layers", "max_len")),
        ("eps", c_float),
        *((name, c_void_p) for name in ("cos", "sin", "embed", "norm")),
        ("layers", POINTER(Layer)),
        ("head", Matrix),
    ]


class Step(Structure):
    """See headway.h."""

    _fields_: ClassVar = [
        *((name, c_int32) for name in ("rows", "sampled", "table_width")),
        *((name, c_void_p) for name in ("tokens", "positions", "sequences", "tables", "logits", "likeliest")),
    ]


def problem(dtype: str) -> str | None:
    """Why steps with weights of this type cannot be computed here, or None."""
    missing = sorted(NEEDS[dtype] - cpu_flags())
    if missing:
        return f"this CPU has no {', '.join(missing)}"
    loaded = load()
    return loaded if isinstance(loaded, str) else None


@cache
def load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    if not build.TARGET.exists():
        return f"{build.TARGET.name} was not built (native/build.py does it)"
    try:
        library = ctypes.CDLL(str(build.TARGET))
        library.headway_sources.restype = c_char_p
        library.headway_open.restype = c_void_p
        library.headway_open.argtypes = [POINTER(Model), c_int32]
        library.headway_close.argtypes = [c_void_p]
        library.headway_allow_amx.restype = library.headway_step.restype = c_bool
        library.headway_step.argtypes = [c_void_p, POINTER(Step)]
    except (OSError, AttributeError) as error:
        return f"{build.TARGET.name}: {error}"
    if library.headway_sources() != build.digest().encode():
        return f"{build.TARGET.name} was built from other sources than these (native/build.py builds it)"
    return library


@cache
def amx() -> bool:
    """Whether this process may use the CPU's matrix unit; the first call asks the kernel."""
    loaded = load()
    return not isinstance(loaded, str) and cpu_flags() >= AMX and bool(loaded.headway_allow_amx())


@cache
def cpu_flags() -> frozenset[str]:
    """What the CPU can, in the kernel's words; empty where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())
