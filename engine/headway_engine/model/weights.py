"""Fills a decoder with the weights of a safetensors directory or a GGUF file.

The decoder is built without memory (meta device), gets uninitialized memory on its device, and each tensor of the files is
copied into its place in a fused parameter: q, k and v side by side, gate and up side by side. Safetensors are read shard by
shard, each tensor from the file straight to the device, where it is also cast. So the peak is the model plus one tensor. Afterwards every element must have been written: a file that lacks a tensor is refused by its name.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from headway_engine.model.config import ModelConfig
from headway_engine.model.errors import ModelFileError
from headway_engine.model.gguf import GgufFile
from headway_engine.model.transformer import Decoder

# Hugging Face name (below `model.layers.N.`) -> our parameter (below `layers.N.`) and which part of it.
_LAYER_NAMES = {
    "input_layernorm": ("attention_norm", ""),
    "self_attn.q_proj": ("attention.qkv", "q"),
    "self_attn.k_proj": ("attention.qkv", "k"),
    "self_attn.v_proj": ("attention.qkv", "v"),
    "self_attn.o_proj": ("attention.out", ""),
    "self_attn.q_norm": ("attention.q_norm", ""),
    "self_attn.k_norm": ("attention.k_norm", ""),
    "post_attention_layernorm": ("feed_forward_norm", ""),
    "mlp.gate_proj": ("feed_forward.gate_up", "gate"),
    "mlp.up_proj": ("feed_forward.gate_up", "up"),
    "mlp.down_proj": ("feed_forward.down", ""),
}
_TOP_NAMES = {"model.embed_tokens.weight": "embed", "model.norm.weight": "norm.weight", "lm_head.weight": "head.weight"}
# GGUF name (below `blk.N.`) -> Hugging Face name.
_GGUF_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# Tensors that hold nothing we use: tables that old exports saved.
_IGNORED = re.compile(r"\.rotary_emb\.inv_freq$")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor goes: the parameter, its first row, and how many rows of it; None: all."""

    parameter: str
    row: int = 0
    rows: int | None = None


def build(
    config: ModelConfig,
    tensors: Iterator[tuple[str, torch.Tensor]],
    source: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> Decoder:
    """A decoder with its weights in place.

    Args:
        config: its shape.
        tensors: Hugging Face names and values, in any order, each once.
        source: for messages.
        device: where the weights go.
        dtype: what they become.

    Raises:
        ModelFileError: a tensor is missing, unknown, or of another shape than the configuration says.
    """
    with torch.device("meta"):
        model = Decoder(config).to(dtype)
    # `to_empty` would part the output matrix from the embedding that it shares.
    model = model.to_empty(device=device)
    if config.tie_word_embeddings:
        model.head.weight = model.embed
    parameters = dict(model.named_parameters())
    missing = {name: parameter.numel() for name, parameter in parameters.items()}
    for name, value in tensors:
        place = _place(name, config)
        if place is None:
            continue
        target = parameters.get(place.parameter)
        if target is None:
            raise ModelFileError(f"{source}: tensor {name} has no place in a {config.architecture} model")
        part = target.data if place.rows is None else target.data[place.row : place.row + place.rows]
        if part.shape != value.shape:
            raise ModelFileError(
                f"{source}: tensor {name} has shape {list(value.shape)}, the configuration wants {list(part.shape)}"
            )
        if not value.is_floating_point():
            raise ModelFileError(f"{source}: tensor {name} has {value.dtype}, weights must be floating-point numbers")
        part.copy_(value)
        missing[place.parameter] -= value.numel()
    unfilled = sorted(name for name, count in missing.items() if count)
    if unfilled:
        raise ModelFileError(
            f"{source}: weights are missing for {len(unfilled)} parameters, the first is {unfilled[0]}"
        )
    return model.eval()


def from_directory(path: Path, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of all safetensors files in `path`, one at a time, on `device`.

    Raises:
        ModelFileError: there is none, one named by the index is missing, or one is corrupt.
    """
    for shard in shards(path):
        try:
            shard.open("rb").close()  # safe_open says of a file that it may not read that there is none
            with safe_open(shard, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    yield name, file.get_tensor(name)
        except OSError as error:
            raise ModelFileError(f"{shard}: {error.strerror or error}") from error
        except SafetensorError as error:
            raise ModelFileError(f"{shard}: cannot read safetensors: {error}") from error


def from_gguf(file: GgufFile, config: ModelConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a GGUF file under their Hugging Face names, dequantized one at a time.

    Raises:
        ModelFileError: see `GgufFile.tensor`.
    """
    for name in file.tensors:
        value = torch.from_numpy(file.tensor(name))
        if config.architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
            value = _unpermute(value, config.head_dim)
        yield _hf_name(name, file.path), value


def shards(path: Path) -> list[Path]:
    """The safetensors files of a model, those that its index names if it has one.

    Raises:
        ModelFileError: there is none, or one named by the index is missing.
    """
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelFileError(f"{index}: cannot read the index: {error!r}") from error
        shards = [path / name for name in sorted(names)]
    else:
        shards = sorted(path.glob("*.safetensors"))
    if not shards:
        raise ModelFileError(f"{path}: no .safetensors file in this directory")
    for shard in shards:
        if not shard.exists():
            raise ModelFileError(f"{shard}: No such file or directory (named by {index.name})")
    return shards


def _place(name: str, config: ModelConfig) -> _Place | None:
    if name in _TOP_NAMES:
        # Some exports store a tied output matrix beside the embedding; it would count twice.
        tied = config.tie_word_embeddings and name == "lm_head.weight"
        return None if tied else _Place(_TOP_NAMES[name])
    if _IGNORED.search(name):
        return None
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None or found[2] not in _LAYER_NAMES:
        return _Place(name)  # `build` refuses it
    ours, part = _LAYER_NAMES[found[2]]
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    wide = config.intermediate_size
    parts = {"q": (0, query), "k": (query, kv), "v": (query + kv, kv), "gate": (0, wide), "up": (wide, wide)}
    return _Place(f"layers.{found[1]}.{ours}.{found[3]}", *parts.get(part, ()))


def _hf_name(name: str, source: Path) -> str:
    if name in _GGUF_TOP_NAMES:
        return _GGUF_TOP_NAMES[name]
    found = re.fullmatch(r"blk\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None or found[2] not in _GGUF_LAYER_NAMES:
        raise ModelFileError(f"{source}: tensor {name} is not known")
    return f"model.layers.{found[1]}.{_GGUF_LAYER_NAMES[found[2]]}.{found[3]}"


def _unpermute(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    # GGUF stores llama's q and k rows with the two halves of each head interleaved.
    rows, columns = weight.shape
    return weight.view(rows // head_dim, head_dim // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
