"""The shape of a model, read from a Hugging Face `config.json` or from the metadata of a GGUF file.

One decoder covers three architectures. They differ in three switches and in how positions are rotated:

    llama   Llama 2 and 3, SmolLM2      (rope scaling `llama3`, `linear`)
    qwen2   Qwen 2, Qwen 2.5            biases on q, k and v
    qwen3   Qwen 3                      RMSNorm on each head of q and k

What such a file may ask for beyond that (other rope scalings, sliding windows, other activations) is refused by name: a
model that is almost right answers nonsense.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headway_engine.model.errors import ModelFileError

# Architecture by the class name of `config.json` ("architectures") and by "model_type".
SUPPORTED = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """How Llama 3.1 stretches its context: low frequencies are divided by `factor`, high ones kept, between: blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All frequencies divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that decides the computation and the size of the weights.

    Attributes:
        architecture: `llama`, `qwen2` or `qwen3`.
        max_position_embeddings: context length in tokens.
        rope_scaling: None when positions are used as they are.
        attention_bias: q, k and v have biases.
        qk_norm: q and k heads are normalized before rotation.
        tie_word_embeddings: the output matrix is the embedding matrix.
        eos_token_ids: tokens that end an answer.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    rope_scaling: Llama3Scaling | LinearScaling | None
    attention_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers that the KV cache keeps per token, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


def from_hf(raw: Mapping[str, object], source: str) -> ModelConfig:
    """The shape in a parsed `config.json`.

    Args:
        raw: the file's content.
        source: the file's path, for messages.

    Raises:
        ModelFileError: the architecture or one of its options is not supported, or a key is missing.
    """
    read = _Reader(raw, source)
    architecture = _architecture(read)
    if read.text("hidden_act", "silu") != "silu":
        raise ModelFileError(f"{source}: hidden_act={raw['hidden_act']!r} is not supported; supported: 'silu'")
    if raw.get("use_sliding_window"):
        raise ModelFileError(f"{source}: use_sliding_window=true is not supported")
    if architecture == "llama" and (raw.get("attention_bias") or raw.get("mlp_bias")):
        raise ModelFileError(f"{source}: attention_bias and mlp_bias are not supported for llama")
    heads, hidden = read.integer("num_attention_heads"), read.integer("hidden_size")
    rope = _rope_parameters(read)
    return ModelConfig(
        architecture=architecture,
        vocab_size=read.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=read.integer("intermediate_size"),
        num_layers=read.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=read.integer("num_key_value_heads", heads),
        head_dim=read.integer("head_dim", hidden // heads),
        rms_norm_eps=read.number("rms_norm_eps", 1e-6),
        rope_theta=rope.number("rope_theta", read.number("rope_theta", 10000.0)),
        max_position_embeddings=read.integer("max_position_embeddings"),
        rope_scaling=_scaling(rope, read),
        attention_bias=architecture == "qwen2",
        qk_norm=architecture == "qwen3",
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        eos_token_ids=token_ids(raw.get("eos_token_id")),
    )


def from_gguf(metadata: Mapping[str, object], tensor_names: frozenset[str], source: str) -> ModelConfig:
    """The shape in a GGUF file's metadata.

    Args:
        metadata: the file's key-value pairs.
        tensor_names: names of its tensors; what is not stated follows from them.
        source: the file's path, for messages.

    Raises:
        ModelFileError: see `from_hf`.
    """
    read = _Reader(metadata, source)
    name = read.text("general.architecture")
    if name not in SUPPORTED.values():
        raise _unsupported(source, name)
    heads, hidden = read.integer(f"{name}.attention.head_count"), read.integer(f"{name}.embedding_length")
    head_dim = read.integer(f"{name}.attention.key_length", hidden // heads)
    scaling = read.text(f"{name}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise ModelFileError(f"{source}: rope scaling {scaling!r} is not supported; supported: none, linear, llama3")
    if "rope_freqs.weight" in tensor_names:
        raise ModelFileError(f"{source}: rope factors in a GGUF file are not supported; use the safetensors directory")
    return ModelConfig(
        architecture=name,
        vocab_size=len(read.items("tokenizer.ggml.tokens")),
        hidden_size=hidden,
        intermediate_size=read.integer(f"{name}.feed_forward_length"),
        num_layers=read.integer(f"{name}.block_count"),
        num_heads=heads,
        num_kv_heads=read.integer(f"{name}.attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_norm_eps=read.number(f"{name}.attention.layer_norm_rms_epsilon", 1e-6),
        rope_theta=read.number(f"{name}.rope.freq_base", 10000.0),
        max_position_embeddings=read.integer(f"{name}.context_length"),
        rope_scaling=LinearScaling(read.number(f"{name}.rope.scaling.factor")) if scaling == "linear" else None,
        attention_bias=name == "qwen2",
        qk_norm=name == "qwen3",
        tie_word_embeddings="output.weight" not in tensor_names,
        eos_token_ids=token_ids(metadata.get("tokenizer.ggml.eos_token_id")),
    )


def token_ids(value: object) -> tuple[int, ...]:
    """`eos_token_id` as a tuple: the files hold null, one number or a list."""
    if isinstance(value, int):
        return (value,)
    return tuple(item for item in value if isinstance(item, int)) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access to a parsed file; what is missing or of the wrong type is named."""

    raw: Mapping[str, object]
    source: str

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelFileError(f"{self.source}: {key} must be a positive integer, found {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ModelFileError(f"{self.source}: {key} must be a positive number, found {value!r}")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.raw.get(key, default)
        if not isinstance(value, str):
            raise ModelFileError(f"{self.source}: {key} must be a string, found {value!r}")
        return value

    def items(self, key: str) -> list[object]:
        value = self.raw.get(key)
        if not isinstance(value, list):
            raise ModelFileError(f"{self.source}: {key} must be a list")
        return value


def _architecture(read: _Reader) -> str:
    names = read.raw.get("architectures")
    if isinstance(names, list) and names:
        if names[0] not in SUPPORTED:
            raise _unsupported(read.source, str(names[0]))
        return SUPPORTED[names[0]]
    model_type = read.text("model_type", "")
    if model_type not in SUPPORTED.values():
        raise _unsupported(read.source, model_type)
    return model_type


def _unsupported(source: str, name: str) -> ModelFileError:
    return ModelFileError(f"{source}: architecture {name!r} is not supported; supported: {', '.join(SUPPORTED)}")


def _rope_parameters(read: _Reader) -> _Reader:
    # transformers 5 writes `rope_parameters`, older files have `rope_scaling` beside `rope_theta`.
    value = read.raw.get("rope_parameters") or read.raw.get("rope_scaling") or {}
    if not isinstance(value, dict):
        raise ModelFileError(f"{read.source}: rope_parameters must be an object")
    return _Reader(value, read.source)


def _scaling(rope: _Reader, top: _Reader) -> Llama3Scaling | LinearScaling | None:
    match rope.text("rope_type", rope.text("type", "default")):
        case "default":
            return None
        case "linear":
            return LinearScaling(rope.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=rope.number("factor"),
                low_freq_factor=rope.number("low_freq_factor"),
                high_freq_factor=rope.number("high_freq_factor"),
                original_max_position_embeddings=rope.integer(
                    "original_max_position_embeddings", top.integer("max_position_embeddings")
                ),
            )
        case other:
            raise ModelFileError(
                f"{top.source}: rope scaling {other!r} is not supported; supported: default, linear, llama3"
            )
