"""A served model that was never on a disk: random weights of a named shape, and a vocabulary of its size.

The step process of an online benchmark loads it; the front only passes `random_model` on, so torch is imported inside.
"""

import random

from tokenizers import Tokenizer, decoders, models

from headway_engine.model.tokenizer import ModelTokenizer
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.loaded import LoadedModel, ModelFacts

KV_CACHE_MIB = 49152
KV_CACHE_CPU_MIB = 512


def random_model(shape_name: str, device: str, config: EngineConfig) -> LoadedModel:
    """Weights on `device` in bfloat16.

    Args:
        shape_name: of `bench.shapes.SHAPES`.
        device: `cuda` or `cpu`.
        config: of the engine that will serve it.
    """
    import torch  # noqa: PLC0415 - see above

    from headway_engine.bench.shapes import MAX_MODEL_LEN, SHAPES, random_decoder  # noqa: PLC0415 - brings torch
    from headway_engine.runtime.loading import make_executor  # noqa: PLC0415 - brings torch

    shape = SHAPES[shape_name]
    decoder = random_decoder(shape, torch.device(device), torch.bfloat16)
    decoder.prepare(MAX_MODEL_LEN)
    memory = (KV_CACHE_MIB if device == "cuda" else KV_CACHE_CPU_MIB) << 20
    blocks = memory // (shape.kv_elements_per_token * torch.bfloat16.itemsize * config.block_size)
    executor, tokens_ahead = make_executor(decoder, config, blocks, MAX_MODEL_LEN)
    facts = ModelFacts(shape.architecture, "bfloat16", device, MAX_MODEL_LEN, shape.vocab_size)
    return LoadedModel(executor, ModelTokenizer(vocabulary(shape.vocab_size), (), ""), facts, tokens_ahead)


def vocabulary(size: int) -> Tokenizer:
    """A byte-level tokenizer of that many tokens: the bytes, and words of two to eight letters, every other with a space."""
    generator = random.Random(0)  # noqa: S311 - words, not secrets
    tokens = dict.fromkeys(chr(256 + byte) for byte in range(33))
    tokens.update(dict.fromkeys(chr(byte) for byte in range(33, 127)))
    while len(tokens) < size:
        word = "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 8)))
        tokens[("\u0120" if len(tokens) % 2 else "") + word] = None
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
