"""The engine's settings: flags, their environment twins, defaults and bounds. Parsing does no I/O.

Each flag `--some-name` may also come from `HEADWAY_SOME_NAME`; the flag wins. A value out of bounds raises
`SettingsError`, whose message names the flag (or the variable) and the bound. What depends on the machine (free memory,
CPU share, the model's context length) stays None here and is found out when the model loads.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NoReturn

from headway_engine.core.limits import DEFAULT_ITL_TARGET_MS, ITL_TARGET_BOUNDS, RESERVED_BOUNDS, BatchingMode, Profile
from headway_engine.core.prompt_policy import PromptPolicy
from headway_engine.core.request import Priority

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
MODES = tuple(BatchingMode)
PROFILES = tuple(Profile)
POLICIES = tuple(PromptPolicy)
CLASSES = tuple(kind.name.lower() for kind in Priority)
ENV_PREFIX = "HEADWAY_"
# A pod serves its cluster; the operator's NetworkPolicy narrows who may reach it.
ANY_ADDRESS = "0.0.0.0"  # noqa: S104


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the flag and the bound."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One engine process.

    Attributes:
        model: a Hugging Face directory or a `.gguf` file.
        served_model_name: what clients may put in `model`.
        device: `cpu`, `cuda` or `auto`.
        dtype: `float32`, `bfloat16`, `float16` (cuda), `int8` (cpu) or `auto`.
        max_model_len: longest prompt and answer together in tokens; None is the model's own.
        capacity_max_num_seqs: envelope of running sequences.
        capacity_max_num_batched_tokens: envelope of tokens in one step.
        capacity_max_queued_requests: envelope of waiting requests.
        max_num_seqs: running sequences at start.
        max_num_batched_tokens: tokens of one step at start.
        batch_wait_ms: how long requests wait for company, at start.
        max_queued_requests: waiting requests at start.
        batching_mode: when waiting requests join, at start.
        profile: what a step is built for, at start.
        itl_target_ms: the gap that the low-tail profile aims at, at start.
        reserved_percent: slots and KV blocks that batch work leaves free for better classes, at start.
        default_class: class of requests that name none, at start.
        max_queued_batch_requests: the queue's bound for batch work, at start; 0 is max_queued_requests.
        kv_cache_memory_mib: size of the KV cache; None is decided by the device.
        block_size: tokens per KV block.
        host: address that all three ports listen on.
        port: data gRPC.
        control_port: control gRPC.
        http_port: `/metrics`, `/healthz`, `/readyz`.
        drain_timeout_seconds: how long streams in flight may go on after SIGTERM.
        max_connection_age_seconds: a data connection older than this takes no new calls; 0 is no bound.
        threads: torch threads on cpu; None is the CPU share of the process.
        prompt_policy: what becomes of prompts that are longer than the model takes.
        prefix_cache: `on` or `off`.
    """

    model: str
    served_model_name: str
    device: str = "auto"
    dtype: str = "auto"
    max_model_len: int | None = None
    capacity_max_num_seqs: int = 64
    capacity_max_num_batched_tokens: int = 2048
    capacity_max_queued_requests: int = 1024
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    batch_wait_ms: int = 0
    max_queued_requests: int = 256
    batching_mode: str = "continuous"
    profile: str = "throughput"
    itl_target_ms: int = DEFAULT_ITL_TARGET_MS
    reserved_percent: int = 0
    default_class: str = "interactive"
    max_queued_batch_requests: int = 0
    kv_cache_memory_mib: int | None = None
    block_size: int = 16
    host: str = ANY_ADDRESS
    port: int = 50051
    control_port: int = 50052
    http_port: int = 8080
    drain_timeout_seconds: int = 300
    max_connection_age_seconds: int = 300
    threads: int | None = None
    prompt_policy: str = "reject"
    prefix_cache: str = "on"


@dataclass(frozen=True, slots=True)
class _Flag:
    """One whole-number flag: its bounds (inclusive), and the flag whose value caps and replaces it."""

    low: int
    high: int
    help: str
    default: int | None
    capacity: str = ""


_INTEGERS: Mapping[str, _Flag] = {
    "max_model_len": _Flag(16, 10_485_760, "longest prompt + answer, tokens (default: the model's)", None),
    "capacity_max_num_seqs": _Flag(1, 4096, "envelope: running sequences", 64),
    "capacity_max_num_batched_tokens": _Flag(16, 262_144, "envelope: tokens of one step", 2048),
    "capacity_max_queued_requests": _Flag(1, 1_000_000, "envelope: waiting requests", 1024),
    "max_num_seqs": _Flag(1, 4096, "running sequences at start (default: its capacity)", None, "capacity_max_num_seqs"),
    "max_num_batched_tokens": _Flag(
        16, 262_144, "tokens of one step at start (default: its capacity)", None, "capacity_max_num_batched_tokens"
    ),
    "batch_wait_ms": _Flag(
        0, 1000, "how long requests wait for company, at start, ms; --batching-mode says which ones", 0
    ),
    "max_queued_requests": _Flag(
        1, 1_000_000, "waiting requests at start (default: 256)", None, "capacity_max_queued_requests"
    ),
    "itl_target_ms": _Flag(
        ITL_TARGET_BOUNDS.min,
        ITL_TARGET_BOUNDS.max,
        "gap between two tokens that profile low-tail aims at, at start, ms",
        DEFAULT_ITL_TARGET_MS,
    ),
    "reserved_percent": _Flag(
        RESERVED_BOUNDS.min,
        RESERVED_BOUNDS.max,
        "slots and KV blocks that batch work leaves free for better classes, at start, percent; 0 = it is only served last",
        0,
    ),
    "max_queued_batch_requests": _Flag(
        0, 1_000_000, "waiting requests at which batch work is refused, at start; 0 = as --max-queued-requests", 0
    ),
    "kv_cache_memory_mib": _Flag(
        1, 16_777_216, "size of the KV cache, MiB (default: cpu 512; cuda 0.9 of the free memory)", None
    ),
    "block_size": _Flag(1, 1024, "tokens per KV block", 16),
    "port": _Flag(0, 65_535, "data gRPC port, 0 = any free one", 50051),
    "control_port": _Flag(0, 65_535, "control gRPC port, 0 = any free one", 50052),
    "http_port": _Flag(0, 65_535, "port of /metrics, /healthz and /readyz, 0 = any free one", 8080),
    "drain_timeout_seconds": _Flag(0, 86_400, "after SIGTERM: how long streams in flight may go on, s", 300),
    "max_connection_age_seconds": _Flag(
        0, 86_400, "older client connections take no new calls, so that clients meet new pods, s; 0 = no bound", 300
    ),
    "threads": _Flag(1, 1024, "torch threads on cpu (default: the CPU limit)", None),
}
_TEXTS: Mapping[str, tuple[str, tuple[str, ...] | None, str]] = {
    "served_model_name": ("", None, "what clients may put in `model` (default: the model path's last component)"),
    "device": ("auto", DEVICES, "where the model runs"),
    "dtype": ("auto", DTYPES, "number format (auto: bfloat16 on cuda, float32 on cpu; int8: on cpu)"),
    "batching_mode": ("continuous", MODES, "when waiting requests join the running ones, at start"),
    "default_class": ("interactive", CLASSES, "workload class of requests that name none, at start"),
    "profile": ("throughput", PROFILES, "steps full of prompt tokens, or short gaps for running streams, at start"),
    "prompt_policy": ("reject", POLICIES, "what becomes of a prompt that is longer than the model takes"),
    "prefix_cache": ("on", ("on", "off"), "keep KV blocks of ended requests for prompts that begin alike"),
    "host": (ANY_ADDRESS, None, "address to listen on"),
}
_DEFAULT_MAX_QUEUED_REQUESTS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags on a parser; every value stays a string until `resolve` has its environment twin too."""
    parser.add_argument("--model", metavar="PATH", help="a Hugging Face directory or a .gguf file (required)")
    for name, (default, choices, text) in _TEXTS.items():
        shown = f" (default: {default})" if default else ""
        parser.add_argument(_flag(name), metavar="|".join(choices) if choices else "TEXT", help=text + shown)
    for name, flag in _INTEGERS.items():
        shown = f" (default: {flag.default})" if flag.default is not None else ""
        parser.add_argument(_flag(name), metavar="N", help=flag.help + shown)


def parse(argv: Sequence[str], env: Mapping[str, str]) -> Settings:
    """Read the settings from a command line and an environment.

    Raises:
        SettingsError: a flag is unknown, missing, malformed or out of bounds.
    """
    parser = _Parser(prog="headway engine serve", description="Serve one model over gRPC.", allow_abbrev=False)
    add_arguments(parser)
    return resolve(vars(parser.parse_args(list(argv))), env)


def resolve(given: Mapping[str, object], env: Mapping[str, str]) -> Settings:
    """Join flags (None: not given) with the environment, check every bound, and fill in what derives from others."""
    raw = {field.name: _lookup(field.name, given, env) for field in fields(Settings)}
    model, model_source = raw["model"]
    if model is None or not model.strip():
        raise SettingsError(f"{model_source} is required: a Hugging Face directory or a .gguf file")
    texts = {name: _text(name, *raw[name]) for name in _TEXTS}
    numbers = {name: _integer(*raw[name], flag) for name, flag in _INTEGERS.items()}
    for name, flag in _INTEGERS.items():
        if flag.capacity:
            numbers[name] = _within_capacity(name, raw[name][1], numbers)
    _check_step_holds_sequences(raw, numbers)
    ports = [numbers[name] for name in ("port", "control_port", "http_port") if numbers[name]]
    if len(set(ports)) != len(ports):
        raise SettingsError(f"--port, --control-port and --http-port must differ, got {', '.join(map(str, ports))}")
    served = texts["served_model_name"] or _model_name(model)
    return Settings(model=model, **{**texts, "served_model_name": served}, **numbers)  # type: ignore[arg-type]  # by name


class _Parser(argparse.ArgumentParser):
    """Argparse exits by itself; settings errors are to be told in one way."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _lookup(name: str, given: Mapping[str, object], env: Mapping[str, str]) -> tuple[str | None, str]:
    """The raw value and where it came from, for the error message."""
    flag = given.get(name)
    if flag is not None:
        return str(flag), _flag(name)
    variable = ENV_PREFIX + name.upper()
    value = env.get(variable)
    # Kubernetes sets HEADWAY_PORT=tcp://... in every pod of a namespace with a Service called `headway`.
    if value is None or value.startswith("tcp://"):
        return None, _flag(name)
    return value, variable


def _text(name: str, value: str | None, source: str) -> str:
    default, choices, _ = _TEXTS[name]
    if value is None:
        return default
    if choices and value not in choices:
        raise SettingsError(f"{source} must be one of {', '.join(choices)}, got {value!r}")
    if not value.strip():
        raise SettingsError(f"{source} must not be empty")
    return value


def _integer(value: str | None, source: str, flag: _Flag) -> int | None:
    if value is None:
        return flag.default
    try:
        number = int(value)
    except ValueError:
        raise SettingsError(f"{source} must be a whole number, got {value!r}") from None
    if not flag.low <= number <= flag.high:
        raise SettingsError(f"{source} must be between {flag.low} and {flag.high}, got {number}")
    return number


def _within_capacity(name: str, source: str, numbers: Mapping[str, int | None]) -> int:
    capacity_name = _INTEGERS[name].capacity
    capacity = numbers[capacity_name]
    assert capacity is not None  # noqa: S101 - every capacity has a default
    value = numbers[name]
    if value is None:
        return min(capacity, _DEFAULT_MAX_QUEUED_REQUESTS) if name == "max_queued_requests" else capacity
    if value > capacity:
        raise SettingsError(f"{source} must be at most {_flag(capacity_name)} ({capacity}), got {value}")
    return value


def _check_step_holds_sequences(raw: Mapping[str, tuple[str | None, str]], numbers: Mapping[str, int | None]) -> None:
    """Each running sequence decodes one token a step, so a step must hold one token for each."""
    for prefix in ("capacity_", ""):
        seqs, tokens = numbers[f"{prefix}max_num_seqs"], numbers[f"{prefix}max_num_batched_tokens"]
        if seqs is not None and tokens is not None and tokens < seqs:
            source = raw[f"{prefix}max_num_batched_tokens"][1]
            raise SettingsError(f"{source} must be at least {_flag(prefix + 'max_num_seqs')} ({seqs}), got {tokens}")


def _model_name(path: str) -> str:
    """Last path component without the suffix: `/models/SmolLM2.Q4_1.gguf` becomes `SmolLM2.Q4_1`."""
    last = path.rstrip("/").rsplit("/", 1)[-1]
    return last[: -len(".gguf")] if last.lower().endswith(".gguf") else last
