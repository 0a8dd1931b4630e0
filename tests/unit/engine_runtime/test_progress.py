"""How far loading is: a bar on a terminal, lines elsewhere; and that a model in shards is loaded shard by shard."""

import io
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from headway_engine.model import config as model_config
from headway_engine.model import weights
from headway_engine.model.transformer import Decoder
from headway_engine.runtime import loading, progress
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.progress import LoadProgress

GB = 10**9
LLAMA: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_is_redrawn_in_place_and_ends_full() -> None:
    clock, terminal = Clock(), Terminal()
    bar = LoadProgress("/models/llama", 16 * GB, terminal, clock)
    for _ in range(16):
        clock.now += 0.5
        bar.advance(GB)
    bar.finish()
    drawn = terminal.getvalue().split("\r")[1:]
    assert len(drawn) == 17
    assert drawn[3] == "loading /models/llama [######..................] 4.0 of 16.0 GB, 25%, 2.0 GB/s "
    assert drawn[-1] == "loading /models/llama [########################] 16.0 of 16.0 GB, 100%, 2.0 GB/s \n"


def test_a_bar_is_not_redrawn_for_each_of_many_small_tensors() -> None:
    clock, terminal = Clock(), Terminal()
    bar = LoadProgress("m", 10_000, terminal, clock)
    for _ in range(10_000):
        clock.now += 0.001
        bar.advance(1)
    assert 90 <= terminal.getvalue().count("\r") <= 101


def test_a_log_gets_a_line_each_five_seconds_and_one_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    clock, stream = Clock(), io.StringIO()
    with caplog.at_level(logging.INFO, logger=progress.__name__):
        lines = LoadProgress("/models/llama", 16 * GB, stream, clock)
        for _ in range(16):
            clock.now += 1
            lines.advance(GB)
        lines.finish()
    assert stream.getvalue() == ""
    assert caplog.messages == [
        "loading /models/llama: 5.0 of 16.0 GB, 31%, 1.0 GB/s",
        "loading /models/llama: 10.0 of 16.0 GB, 62%, 1.0 GB/s",
        "loading /models/llama: 15.0 of 16.0 GB, 94%, 1.0 GB/s",
        "loaded /models/llama: 16.0 GB of weights in 16.0 s",
    ]


def test_more_than_was_expected_is_never_more_than_all_of_it() -> None:
    terminal, clock = Terminal(), Clock()
    bar = LoadProgress("m", GB, terminal, clock)
    clock.now += 1
    bar.advance(3 * GB)
    assert "1.0 of 1.0 GB, 100%" in terminal.getvalue()


def sharded(folder: Path, shards: int) -> dict[str, torch.Tensor]:
    """A tiny model in files of which each holds some of its tensors, in no order of layers; returns the tensors."""
    torch.manual_seed(3)
    shapes = {"model.embed_tokens.weight": (32, 16), "model.norm.weight": (16,), "lm_head.weight": (32, 16)}
    for layer in range(2):
        base = f"model.layers.{layer}"
        shapes |= {
            f"{base}.input_layernorm.weight": (16,),
            f"{base}.post_attention_layernorm.weight": (16,),
            f"{base}.self_attn.q_proj.weight": (16, 16),
            f"{base}.self_attn.k_proj.weight": (8, 16),
            f"{base}.self_attn.v_proj.weight": (8, 16),
            f"{base}.self_attn.o_proj.weight": (16, 16),
            f"{base}.mlp.gate_proj.weight": (24, 16),
            f"{base}.mlp.up_proj.weight": (24, 16),
            f"{base}.mlp.down_proj.weight": (16, 24),
        }
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    file_of = {name: f"model-{index % shards + 1:05}.safetensors" for index, name in enumerate(sorted(tensors))}
    for file in set(file_of.values()):
        save_file({name: value for name, value in tensors.items() if file_of[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))
    (folder / "config.json").write_text(json.dumps(LLAMA))
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    return tensors


def test_a_model_in_shards_is_read_shard_by_shard_onto_the_device(tmp_path: Path) -> None:
    tensors = sharded(tmp_path, 3)
    read = [name for name, value in weights.from_directory(tmp_path, torch.device("cpu")) if value.device.type == "cpu"]
    assert sorted(read) == sorted(tensors)
    files = [list(load_file(shard)) for shard in weights.shards(tmp_path)]
    assert len(files) == 3
    at = 0
    for names in files:
        assert set(read[at : at + len(names)]) == set(names)
        at += len(names)


def test_a_sharded_model_has_the_weights_of_its_files_and_says_how_much_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = sharded(tmp_path, 3)
    terminal, built = Terminal(), []
    monkeypatch.setattr(loading.sys, "stderr", terminal)
    monkeypatch.setattr(loading, "pack", built.append)
    loading.load(EngineConfig(tmp_path, device="cpu", kv_cache_memory_mib=1, threads=1))
    (decoder,) = built
    assert isinstance(decoder, Decoder)
    shape = model_config.from_hf(LLAMA, "config.json")
    assert decoder.config == shape
    parameters = dict(decoder.named_parameters())
    qkv = [tensors[f"model.layers.1.self_attn.{side}_proj.weight"] for side in "qkv"]
    assert torch.equal(parameters["layers.1.attention.qkv.weight"], torch.cat(qkv))
    assert torch.equal(parameters["head.weight"], tensors["lm_head.weight"])
    assert terminal.getvalue().startswith(f"\rloading {tmp_path} [")
    assert terminal.getvalue().endswith("100%, 0.0 GB/s \n")
