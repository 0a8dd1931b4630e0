"""What loading a model yields: an executor, a tokenizer, and facts about the model. `runtime/executor.py` makes it."""

from dataclasses import dataclass

from headway_engine.core.batch import Executor
from headway_engine.runtime.tokenize import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the weights and the device decide.

    Attributes:
        architecture: `llama`, `qwen2` or `qwen3`.
        dtype: `float32`, `bfloat16`, `float16` or `int8`: what the weights are stored as.
        device: `cpu` or `cuda`.
        max_model_len: longest prompt and answer together, in tokens.
        vocab_size: token ids are below it.
    """

    architecture: str
    dtype: str
    device: str
    max_model_len: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. The executor is then used by the step thread only.

    Attributes:
        executor: with the weights.
        tokenizer: of the model.
        model_info: facts about it.
        tokens_ahead: how far the executor computes ahead of the scheduler, see `core/scheduler.py`.
    """

    executor: Executor
    tokenizer: Tokenizer
    model_info: ModelFacts
    tokens_ahead: int = 0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the engine's front needs of a loaded model.

    Attributes:
        model_info: facts about it.
        tokenizer: of the model.
        capacity_tokens: what the KV cache holds.
    """

    model_info: ModelFacts
    tokenizer: Tokenizer
    capacity_tokens: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`ModelFacts` and what the tokenizer adds, as clients see it."""

    model: str
    architecture: str
    dtype: str
    device: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    engine_version: str
    chat_template: str
