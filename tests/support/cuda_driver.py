"""The CUDA executor under the real scheduler, and how right its answers are.

Weights are random, so the best and the second best logit are often closer than bfloat16 can tell. A sampled token is right
when the float32 model, given the tokens before it, rates it within a small margin of its own best one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from headway_engine.bench.shapes import SHAPES, random_decoder
from headway_engine.core.batch import Chunk
from headway_engine.core.blocks import BlockPool
from headway_engine.core.constraint import Constraint, ConstraintKind, ConstraintSpec
from headway_engine.core.limits import Limits
from headway_engine.core.logprobs import TokenLogprobs
from headway_engine.core.request import FinishReason, Priority, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler
from headway_engine.model.attention import StepLayout, TorchAttention
from headway_engine.model.config import ModelConfig
from headway_engine.model.transformer import Decoder
from headway_engine.runtime.cuda_executor import CudaExecutor, CudaLaunches
from headway_engine.runtime.cuda_sizes import CudaSizes

TINY = replace(
    SHAPES["qwen06b"], vocab_size=1003, hidden_size=96, intermediate_size=200, num_layers=3, num_heads=6, num_kv_heads=2,
    head_dim=32, tie_word_embeddings=False,
)  # fmt: skip
# Its matrices fit the tiles of narrow products, those of `TINY` do not.
EVEN = replace(TINY, hidden_size=128, intermediate_size=192)
SIZES = CudaSizes(num_blocks=200, block_size=16, max_seqs=24, max_tokens=256, max_len=1024)
# In standard deviations of a row's logits; bfloat16 moves a logit by some hundredths of one.
MARGIN = 0.25


def prepared(config: ModelConfig) -> Decoder:
    torch.manual_seed(0)  # the same model whichever test asks first: a close call must not come and go
    model = random_decoder(config, torch.device("cuda"), torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # not ones, so that a norm that is left out shows
            parameter.data.uniform_(0.5, 1.5)
        elif name == "embed":
            parameter.data.normal_(0, 1)
        else:  # large enough that attention and feed-forward outweigh the token itself
            parameter.data.normal_(0, 1.5 * parameter.shape[1] ** -0.5)
    model.prepare(1024)
    return model


def logits_of(model: Decoder, tokens: list[int]) -> torch.Tensor:
    """Float32 logits after each token, computed by the torch decoder in one pass."""
    config, count = model.config, len(tokens)
    wide = Decoder(config).to("cuda")
    for parameter, source in zip(wide.parameters(), model.parameters(), strict=True):
        parameter.data.copy_(source.data)
    if config.tie_word_embeddings:
        wide.head.weight = wide.embed
    wide.prepare(1024)
    blocks = -(-count // 16)
    shape = (blocks + 1, 16, config.num_kv_heads, config.head_dim)
    cache = [(torch.zeros(shape, device="cuda"), torch.zeros(shape, device="cuda")) for _ in range(config.num_layers)]
    every = torch.arange(count, device="cuda")
    layout = StepLayout([count], [count], [tuple(range(1, blocks + 1))], 0, every + 16, 16, torch.float32)
    with torch.inference_mode():
        logits: torch.Tensor = wide(torch.tensor(tokens, device="cuda"), every, TorchAttention(layout), cache, every)
    return logits


def worst_margin(model: Decoder, prompt: list[int], answer: list[int]) -> float:
    """How far the worst token of the answer is behind the best one, in standard deviations."""
    logits = logits_of(model, prompt + answer[:-1])[len(prompt) - 1 :]
    chosen = logits.gather(1, torch.tensor(answer, device="cuda")[:, None]).squeeze(1)
    return float(((logits.amax(1) - chosen) / logits.std(1)).max())


class Spied:
    """Launches of which is seen how many chunks of a batch were there before it."""

    def __init__(self, inner: CudaLaunches) -> None:
        self.inner = inner
        self.launch, self.decode_after = inner.launch, inner.decode_after
        self.kept = 0

    def next_batch(self, kept: Sequence[Chunk]) -> None:
        self.kept = len(kept)
        self.inner.next_batch(kept)


class Driver:
    """A scheduler and an executor, stepped by hand."""

    def __init__(self, model: Decoder, sizes: CudaSizes = SIZES, budget: int = 256) -> None:
        self.executor = CudaExecutor(model, sizes)
        self.executor.begin()
        self.pool = BlockPool(sizes.num_blocks, sizes.block_size)
        limits = Limits(sizes.max_seqs, budget, 0, 100)
        self.scheduler = Scheduler(self.pool, limits, sizes.max_len, frozenset(), tokens_ahead=1)
        self.prompts: dict[str, list[int]] = {}
        self.answers: dict[str, list[int]] = {}
        self.logprobs: dict[str, list[TokenLogprobs]] = {}
        self.now = 0.0
        self.steps = self.ahead = 0  # batches, and those that had been launched, all of each, when they came
        self.reasons: list[FinishReason] = []

    def add(
        self,
        name: str,
        prompt: list[int],
        tokens: int,
        seed: int = 0,
        constraint: Constraint | None = None,
        **sampling: object,
    ) -> None:
        params = SamplingParams(max_tokens=tokens, **{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
        if constraint is not None:
            params = replace(params, constraint=ConstraintSpec(ConstraintKind.REGEX, "."))
        request = Request(
            RequestId(name),
            self.now,
            prompt_ids=tuple(prompt),
            sampling=params,
            priority=Priority.BATCH,
            constraint=constraint,
        )
        self.scheduler.add(request, seed)
        self.prompts[name], self.answers[name], self.logprobs[name] = prompt, [], []

    def step(self) -> bool:
        self.now += 1
        batch = self.scheduler.schedule(self.now)
        if batch is None:
            return False
        launched = Spied(self.executor._launches)
        self.executor._steps._launches = launched
        results = self.executor.run(batch)
        self.steps += 1
        self.ahead += launched.kept == len(batch.chunks)
        for event in self.scheduler.commit(batch, results, self.now):
            if event.finished is not None:
                assert event.finished.reason in (FinishReason.LENGTH, FinishReason.STOP)
                self.reasons.append(event.finished.reason)
            self.answers[event.request_id] += event.token_ids
            if event.logprobs is not None:
                self.logprobs[event.request_id].append(event.logprobs)
        return True

    def finish(self, each_step: Callable[[int], None] = lambda _: None) -> None:
        count = 0
        while self.step():
            count += 1
            each_step(count)


def prompt_of(length: int, seed: int, vocabulary: int = 1003) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (length,), generator=generator).tolist()
