"""The model shapes of the GPU benchmarks, and an engine around one with random weights.

The engine is the real one below the tokenizer: step loop, scheduler, executor. Only the sink differs, which counts tokens
instead of writing streams: these benchmarks measure token ids in, token ids out.
"""

import gc
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headway_engine.bench.report import Figure
from headway_engine.core.batch import Executor
from headway_engine.core.blocks import BlockPool
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import LimitsState
from headway_engine.core.request import FinishReason, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler
from headway_engine.model.config import Llama3Scaling, ModelConfig
from headway_engine.model.transformer import Decoder
from headway_engine.runtime.config import EngineConfig, ModelLoadError
from headway_engine.runtime.loading import make_executor
from headway_engine.runtime.loop import EventSink, StepLoop, Submit

MAX_MODEL_LEN = 4096
# What the comparison engine was measured with.
TEMPERATURE = 0.6
_MIB = 1 << 20


def _shape(
    architecture: str, sizes: tuple[int, int, int, int, int, int, int], tied: bool, **extra: object
) -> ModelConfig:
    hidden, layers, heads, kv_heads, head_dim, inner, vocabulary = sizes
    scaling = extra.get("rope_scaling")
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        max_position_embeddings=MAX_MODEL_LEN,
        rope_scaling=scaling if isinstance(scaling, Llama3Scaling) else None,
        attention_bias=False,
        qk_norm=architecture == "qwen3",
        tie_word_embeddings=tied,
        eos_token_ids=(),
    )


SHAPES = {
    "smol135m": _shape("llama", (576, 30, 9, 3, 64, 1536, 49152), tied=True),
    "qwen06b": _shape("qwen3", (1024, 28, 16, 8, 128, 3072, 151936), tied=True),
    "llama8b": _shape(
        "llama",
        (4096, 32, 32, 8, 128, 14336, 128256),
        tied=False,
        rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, original_max_position_embeddings=8192),
    ),
}


def random_decoder(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Decoder:
    """A decoder with small random weights; norms are ones."""
    with torch.device("meta"):
        model = Decoder(config).to(dtype)
    model = model.to_empty(device=device)
    if config.tie_word_embeddings:
        model.head.weight = model.embed
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.fill_(1.0)
        else:
            parameter.data.normal_(0.0, 0.02, generator=generator)
    return model.eval()


def shape_executor(name: str, setup: EngineConfig, kv_cache_mib: int) -> tuple[Executor, int]:
    """The GPU's executor for a shape, and the tokens that it computes ahead.

    Raises:
        ModelLoadError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ModelLoadError("this benchmark needs a CUDA device; --case cpu does not")
    config = SHAPES[name]
    decoder = random_decoder(config, torch.device("cuda"), torch.bfloat16)
    decoder.prepare(MAX_MODEL_LEN)
    blocks = kv_cache_mib * _MIB // (config.kv_elements_per_token * 2 * setup.block_size)
    return make_executor(decoder, setup, blocks, MAX_MODEL_LEN)


def started_loop(executor: Executor, tokens_ahead: int, setup: EngineConfig, max_len: int, sink: EventSink) -> StepLoop:
    """A step loop around an executor, ready for requests; without a prefix cache, as the peers were measured."""
    pool = BlockPool(executor.num_blocks, executor.block_size, caching=False)
    limits = LimitsState(setup.envelope(), setup.baseline(), setup.baseline())
    loop = StepLoop(executor, Scheduler(pool, limits.effective, max_len, frozenset(), tokens_ahead), limits, sink)
    loop.start()
    loop.wait_begun()
    return loop


@dataclass(frozen=True, slots=True)
class Work:
    """One request of a benchmark."""

    prompt: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class EngineSizes:
    """How the measured engine is set up."""

    max_seqs: int = 256
    max_tokens: int = 16384
    kv_cache_mib: int = 49152


class ShapeEngine:
    """An engine for one shape on the GPU."""

    def __init__(self, name: str, sizes: EngineSizes = EngineSizes()) -> None:
        """Build it.

        Raises:
            ModelLoadError: there is no GPU.
        """
        started = time.perf_counter()
        self.config = SHAPES[name]
        setup = EngineConfig(
            model=Path(name),
            capacity_max_num_seqs=sizes.max_seqs,
            capacity_max_num_batched_tokens=sizes.max_tokens,
            max_queued_requests=1024,
        )
        executor, tokens_ahead = shape_executor(name, setup, sizes.kv_cache_mib)
        self._sink = _Sink()
        self._loop = started_loop(executor, tokens_ahead, setup, MAX_MODEL_LEN, self._sink)
        self._requests = 0
        self.generate([Work((1, 2, 3), 1)])
        self.start_s = time.perf_counter() - started

    def prompt(self, length: int, generator: random.Random) -> tuple[int, ...]:
        """Random token ids."""
        return tuple(generator.randrange(self.config.vocab_size) for _ in range(length))

    def generate(self, work: Sequence[Work]) -> float:
        """Answer all of it, submitted at once; returns the seconds it took.

        Raises:
            RuntimeError: a request failed.
        """
        now = time.monotonic()
        commands = []
        for item in work:
            self._requests += 1
            sampling = SamplingParams(temperature=TEMPERATURE, max_tokens=item.output_tokens, ignore_eos=True)
            request = Request(RequestId(f"r{self._requests}"), now, prompt_ids=item.prompt, sampling=sampling)
            commands.append(Submit(request, seed=self._requests))
        self._sink.expect(len(work))
        started = time.perf_counter()
        self._loop.send(*commands)
        self._sink.done.wait()
        seconds = time.perf_counter() - started
        if self._sink.error or self._sink.tokens != sum(item.output_tokens for item in work):
            raise RuntimeError(self._sink.error or f"{self._sink.tokens} tokens came back")
        return seconds

    def close(self) -> None:
        """Stop the loop and free the device's memory."""
        self._loop.stop()
        del self._loop
        gc.collect()
        torch.cuda.empty_cache()


def each_shape(names: Sequence[str], measure: Callable[[ShapeEngine, str], list[Figure]]) -> tuple[Figure, ...]:
    """The figures of the named shapes, each measured in an engine of its own."""
    figures: list[Figure] = []
    for name in names:
        engine = ShapeEngine(name)
        figures += measure(engine, name)
        engine.close()
    return tuple(figures)


class _Sink:
    """Counts tokens until every expected request has ended."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.tokens = 0
        self.error = ""
        self._open = 0

    def expect(self, requests: int) -> None:
        """Begin to count."""
        self._open, self.tokens, self.error = requests, 0, ""
        self.done.clear()

    def publish(self, events: Sequence[StepEvent]) -> None:
        """See `runtime.loop.EventSink`."""
        for event in events:
            self.tokens += len(event.token_ids)
            if event.finished is not None:
                self._open -= 1
                if event.finished.reason is FinishReason.ERROR:
                    self.error = event.finished.error
        if events and self._open == 0:
            self.done.set()

    def changed(self) -> None:
        """See `runtime.loop.EventSink`."""

    def fail(self, message: str) -> None:
        """See `runtime.loop.EventSink`."""
        self.error = message
        self.done.set()
