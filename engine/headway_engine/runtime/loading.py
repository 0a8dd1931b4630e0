"""From a path to a model that can run: files, device, data type, threads, and the size of the KV cache.

Everything a user can get wrong here becomes one `ModelLoadError` with a line that names the file or flag and the cause.
"""

import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from headway_engine.core.batch import Executor
from headway_engine.model import config as model_config
from headway_engine.model import native, weights
from headway_engine.model import tokenizer as model_tokenizer
from headway_engine.model.config import ModelConfig
from headway_engine.model.errors import ModelFileError
from headway_engine.model.gguf import GgufFile
from headway_engine.model.native import NativeDecoder
from headway_engine.model.packing import pack
from headway_engine.model.tokenizer import ModelTokenizer, read_json
from headway_engine.model.transformer import Decoder
from headway_engine.runtime.config import EngineConfig, ModelLoadError
from headway_engine.runtime.executor import TorchExecutor
from headway_engine.runtime.loaded import LoadedModel, ModelFacts
from headway_engine.runtime.progress import LoadProgress

logger = logging.getLogger(__name__)

MIB = 1 << 20
CPU_KV_CACHE_MIB = 512
# The rest is for the allocator's gaps and the libraries' work space.
CUDA_MEMORY_SHARE = 0.9
# What the weights are loaded as; int8 is made of them afterwards.
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class _Model:
    decoder: Decoder
    tokenizer: ModelTokenizer


def load(config: EngineConfig) -> LoadedModel:
    """Load weights and tokenizer and allocate the KV cache.

    Raises:
        ModelLoadError: the model cannot be served; the message names the file or flag and the cause.
    """
    device = _device(config.device)
    name = _dtype(config.dtype, device)
    dtype = _DTYPES[name]
    if device.type == "cpu":
        torch.set_num_threads(config.threads or cpu_limit())
    try:
        model = _read(config.model, device, dtype)
    except ModelFileError as error:
        raise ModelLoadError(_with_cure(str(error), error.__cause__)) from error
    except OSError as error:
        message = f"{error.filename or config.model}: {error.strerror or error}"
        raise ModelLoadError(_with_cure(message, error)) from error
    except RuntimeError as error:
        # Of a CPU's memory torch says it in words only.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ModelLoadError(f"{config.model}: the weights do not fit into the memory of {device.type}") from error
    shape = model.decoder.config
    max_len = _max_model_len(config, shape)
    decoder: Decoder | NativeDecoder = model.decoder
    if device.type == "cpu":
        decoder, name = for_cpu(model.decoder, name, max_len)
    else:
        model.decoder.prepare(max_len)
    blocks = _num_blocks(config, shape, device, dtype)
    executor, tokens_ahead = make_executor(decoder, config, blocks, max_len)
    return LoadedModel(
        executor=executor,
        tokenizer=model.tokenizer,
        model_info=ModelFacts(
            architecture=shape.architecture,
            dtype=name,
            device=device.type,
            max_model_len=max_len,
            vocab_size=shape.vocab_size,
        ),
        tokens_ahead=tokens_ahead,
    )


def for_cpu(decoder: Decoder, dtype: str, max_len: int) -> tuple[Decoder | NativeDecoder, str]:
    """The fastest form of a decoder on this CPU, and what its weights are stored as: native, packed or as it is."""
    problem = native.problem(decoder.config, dtype) if dtype in native.TYPES else f"{dtype} is for GPUs"
    if problem is None:
        return NativeDecoder(decoder, dtype, max_len, torch.get_num_threads()), dtype
    stored = "bfloat16" if dtype == "int8" else dtype
    logger.warning("steps are computed by torch in %s, which costs speed: %s", stored, problem)
    decoder.prepare(max_len)
    pack(decoder)
    return decoder, stored


def make_executor(
    model: Decoder | NativeDecoder, config: EngineConfig, num_blocks: int, max_len: int
) -> tuple[Executor, int]:
    """The executor for a model that has its weights and its rotation table, and how many tokens it computes ahead.

    Kernels where they can run the model, torch otherwise.
    """
    if isinstance(model, Decoder) and model.embed.device.type == "cuda":
        # Here because it brings Triton, which only machines with a GPU have.
        from headway_engine.kernels import whole_attention  # noqa: PLC0415
        from headway_engine.kernels.decoder import supports  # noqa: PLC0415
        from headway_engine.runtime.cuda_executor import CudaExecutor  # noqa: PLC0415
        from headway_engine.runtime.cuda_sizes import CudaSizes  # noqa: PLC0415

        if supports(model.config, model.embed.dtype):
            library = whole_attention.library(model.config.head_dim, model.embed.dtype)
            logger.info("attention of whole prompts by %s", library)
            sizes = CudaSizes(
                num_blocks=num_blocks,
                block_size=config.block_size,
                max_seqs=config.capacity_max_num_seqs,
                max_tokens=config.capacity_max_num_batched_tokens,
                max_len=max_len,
            )
            return CudaExecutor(model, sizes), 1
    return TorchExecutor(model, num_blocks, config.block_size), 0


def cpu_limit(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use: the cgroup's limit, rounded up, at most those it may run on."""
    available = len(os.sched_getaffinity(0))
    quota, period = _cpu_quota(cgroups)
    return available if quota < 0 else max(1, min(available, math.ceil(quota / period)))


def available_memory(cgroups: Path = Path("/sys/fs/cgroup"), machine: Path = Path("/proc/meminfo")) -> float:
    """Bytes that this process can still take, of the machine and of its cgroup (v2); infinite where neither tells."""
    free = math.inf
    with contextlib.suppress(OSError, ValueError, KeyError):
        free = 1024 * int(_columns(machine.read_text())["MemAvailable:"])
    with contextlib.suppress(OSError, ValueError, KeyError):
        # Not memory.current: it counts the model's file in the page cache, which gives way.
        taken = int(_columns((cgroups / "memory.stat").read_text())["anon"])
        free = min(free, int((cgroups / "memory.max").read_text()) - taken)
    return free


def _columns(table: str) -> dict[str, str]:
    """First and second word of each line."""
    return {words[0]: words[1] for line in table.splitlines() if len(words := line.split()) > 1}


def _cpu_quota(cgroups: Path) -> tuple[int, int]:
    """Microseconds of CPU time in each period of microseconds; a negative quota is no limit."""
    with contextlib.suppress(OSError, ValueError):  # cgroup v2: "max 100000" or "70000 100000"
        quota, period = (cgroups / "cpu.max").read_text().split()
        return (-1 if quota == "max" else int(quota)), int(period)
    with contextlib.suppress(OSError, ValueError):  # cgroup v1: -1 or a number, in files of their own
        v1 = cgroups / "cpu"
        return int((v1 / "cpu.cfs_quota_us").read_text()), int((v1 / "cpu.cfs_period_us").read_text())
    return -1, 1


def _read(path: Path, device: torch.device, dtype: torch.dtype) -> _Model:
    if path.is_dir():
        shape = model_config.from_hf(read_json(path / "config.json"), str(path / "config.json"))
        size = sum(shard.stat().st_size for shard in weights.shards(path))
        decoder = _build(shape, weights.from_directory(path, device), size, path, (device, dtype))
        return _Model(decoder, model_tokenizer.from_directory(path, shape.eos_token_ids))
    if not path.exists():
        raise ModelFileError(f"{path}: No such file or directory")
    file = GgufFile(path)
    shape = model_config.from_gguf(file.metadata, frozenset(file.tensors), str(path))
    size = sum(4 * math.prod(info.shape) for info in file.tensors.values())  # dequantized to float32 on the way
    decoder = _build(shape, weights.from_gguf(file, shape), size, path, (device, dtype))
    return _Model(decoder, model_tokenizer.from_gguf(file, shape.eos_token_ids))


def _build(
    shape: ModelConfig,
    tensors: Iterator[tuple[str, torch.Tensor]],
    size: int,
    path: Path,
    target: tuple[torch.device, torch.dtype],
) -> Decoder:
    """See `weights.build`; says how far it is, of `size` bytes."""
    progress = LoadProgress(str(path), size, sys.stderr)

    def watched() -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in tensors:
            yield name, value
            progress.advance(value.nbytes)

    decoder = weights.build(shape, watched(), path, *target)
    progress.finish()
    return decoder


def _with_cure(message: str, cause: BaseException | None) -> str:
    if not isinstance(cause, PermissionError):
        return message
    return (
        f"{message}; the engine runs as user {os.geteuid()}, who must be able to read the files and enter their folders"
    )


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available() if name in ("auto", "cuda") else False
    if name == "cuda" and not available:
        raise ModelLoadError("--device cuda: torch sees no CUDA device")
    return torch.device("cuda" if available else "cpu")


def _dtype(name: str, device: torch.device) -> str:
    if name == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    if name not in _DTYPES:
        raise ModelLoadError(f"--dtype {name}: not supported; supported: auto, {', '.join(_DTYPES)}")
    if name == "int8" and device.type != "cpu":
        raise ModelLoadError(f"--dtype int8 needs --device cpu, got {device.type}")
    return name


def _max_model_len(config: EngineConfig, shape: ModelConfig) -> int:
    if config.max_model_len is None:
        return shape.max_position_embeddings
    if config.max_model_len > shape.max_position_embeddings:
        raise ModelLoadError(
            f"--max-model-len {config.max_model_len}: {config.model} was trained for {shape.max_position_embeddings} tokens"
        )
    return config.max_model_len


def _num_blocks(config: EngineConfig, shape: ModelConfig, device: torch.device, dtype: torch.dtype) -> int:
    if config.kv_cache_memory_mib is not None:
        memory = config.kv_cache_memory_mib * MIB
    elif device.type == "cpu":
        memory = CPU_KV_CACHE_MIB * MIB
    else:
        free = torch.cuda.mem_get_info(device)[0]
        memory = int(free * CUDA_MEMORY_SHARE) - _step_memory(config, shape, dtype)
    if device.type == "cpu" and memory > (available := available_memory()):
        # Filled with zeros it would be taken at once, and the kernel would end this process, or another one.
        raise ModelLoadError(f"--kv-cache-memory-mib {memory // MIB}: {int(available) // MIB} MiB of memory are free")
    block_bytes = shape.kv_elements_per_token * dtype.itemsize * config.block_size
    blocks = memory // block_bytes - 1  # block 0
    if blocks < 1:
        raise ModelLoadError(
            f"--kv-cache-memory-mib {memory // MIB}: two blocks of {config.block_size} tokens take "
            f"{-(-2 * block_bytes // MIB)} MiB in this model"
        )
    return int(blocks)


def _step_memory(config: EngineConfig, shape: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that the largest step needs beside the cache: activations of one layer, and logits with their sorted copy."""
    widest = 4 * shape.hidden_size + 3 * shape.intermediate_size + 4 * shape.num_heads * shape.head_dim
    logits = 6 * 4 * config.capacity_max_num_seqs * shape.vocab_size
    return config.capacity_max_num_batched_tokens * widest * dtype.itemsize + logits
