"""A model that is computed in no time, saved as a user has one: for benchmarks that read it from a folder."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig


def saved(folder: Path, vocab_size: int, **shape: float) -> Path:
    """Write it; `shape`: what else is asked of transformers' configuration. Returns the folder."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        **shape,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    return folder
