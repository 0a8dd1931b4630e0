"""What is wrong with model files is said in one line that names the file and the cause."""

import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import save_file

from headway_engine.runtime.config import EngineConfig, ModelLoadError
from headway_engine.runtime.loading import load

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
U32, STRING = 4, 8


def message_of(config: EngineConfig) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def directory(path: Path, **changes: object) -> Path:
    (path / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return path


def gguf(path: Path, pairs: dict[str, str | int], version: int = 3, cut: int = 0) -> Path:
    data = b"GGUF" + struct.pack("<IQQ", version, 0, len(pairs))
    for key, value in pairs.items():
        data += struct.pack("<Q", len(key)) + key.encode()
        if isinstance(value, int):
            data += struct.pack("<II", U32, value)
        else:
            data += struct.pack("<IQ", STRING, len(value)) + value.encode()
    path.write_bytes(data[: len(data) - cut])
    return path


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    assert message_of(EngineConfig(tmp_path / "none")) == f"{tmp_path}/none: No such file or directory"


@pytest.fixture
def nobody() -> Iterator[int]:
    """A user without rights of its own, as the engine is in a pod."""
    before = os.geteuid()
    if before == 0:
        # Torch imports more on its first use of a shape without memory, from where nobody may not read.
        torch.empty_like(torch.empty(1, device="meta"), device="cpu")
        os.seteuid(65534)
    yield os.geteuid()
    os.seteuid(before)


def test_a_folder_that_the_engine_may_not_enter_is_named_with_the_cure(
    tmp_path_factory: pytest.TempPathFactory, nobody: int
) -> None:
    closed = tmp_path_factory.getbasetemp() / "closed"
    with suppress(PermissionError):  # root's folders are closed to nobody already
        closed.mkdir(mode=0)
    message = message_of(EngineConfig(closed / "model"))
    assert message.startswith(f"{closed}/model: Permission denied; the engine runs as user {nobody}, who must")


def test_weights_that_the_engine_may_not_read_are_named_with_the_cure(nobody: int) -> None:
    # Not below tmp_path, whose parents only their owner may enter.
    with TemporaryDirectory() as name:
        folder = directory(Path(name))
        weights = folder / "model.safetensors"
        save_file({"model.norm.weight": torch.zeros(16)}, weights)
        weights.chmod(0)
        message = message_of(EngineConfig(folder))
    assert message.startswith(f"{weights}: Permission denied; the engine runs as user {nobody}, who must")


def test_a_directory_without_config_is_named(tmp_path: Path) -> None:
    assert message_of(EngineConfig(tmp_path)) == f"{tmp_path}/config.json: No such file or directory"


def test_a_config_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert message_of(EngineConfig(tmp_path)).startswith(f"{tmp_path}/config.json: not valid JSON")


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel' is not supported; supported: Llama"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope scaling 'yarn' is not supported; supported: default, linear"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window=true is not supported"),
        ({"attention_bias": True}, "attention_bias and mlp_bias are not supported"),
        ({"num_hidden_layers": None}, "num_hidden_layers must be a positive integer, found None"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer, found 'many'"),
    ],
)
def test_an_unsupported_config_names_the_key(tmp_path: Path, changes: dict[str, object], cause: str) -> None:
    message = message_of(EngineConfig(directory(tmp_path, **changes)))
    assert message.startswith(f"{tmp_path}/config.json: {cause}")


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    assert message_of(EngineConfig(directory(tmp_path))) == f"{tmp_path}: no .safetensors file in this directory"


def test_a_missing_shard_is_named_with_its_index(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    message = message_of(EngineConfig(directory(tmp_path)))
    assert message.startswith(f"{tmp_path}/part-1.safetensors: No such file")
    assert "model.safetensors.index.json" in message


def test_corrupt_safetensors_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    message = message_of(EngineConfig(directory(tmp_path)))
    assert message.startswith(f"{tmp_path}/model.safetensors: cannot read safetensors")


@pytest.mark.parametrize(
    ("changes", "tensor", "held", "wanted"),
    [
        ({"num_key_value_heads": 2}, "model.layers.0.self_attn.k_proj.weight", [8, 16], [16, 16]),
        ({"intermediate_size": 32}, "model.layers.0.mlp.up_proj.weight", [24, 16], [32, 16]),
        ({"vocab_size": 40}, "model.embed_tokens.weight", [32, 16], [40, 16]),
    ],
)
def test_a_tensor_smaller_than_the_configuration_wants_is_named_with_both_shapes(
    tmp_path: Path, changes: dict[str, object], tensor: str, held: list[int], wanted: list[int]
) -> None:
    save_file({tensor: torch.zeros(held)}, directory(tmp_path, **changes) / "model.safetensors")
    message = message_of(EngineConfig(tmp_path, device="cpu"))
    assert message == f"{tmp_path}: tensor {tensor} has shape {held}, the configuration wants {wanted}"


def test_weights_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    weights = {"model.norm.weight": torch.zeros(16, dtype=torch.int8)}
    save_file(weights, directory(tmp_path) / "model.safetensors")
    message = message_of(EngineConfig(tmp_path, device="cpu"))
    assert message == f"{tmp_path}: tensor model.norm.weight has torch.int8, weights must be floating-point numbers"


def test_weights_larger_than_the_memory_are_refused(tmp_path: Path) -> None:
    # More than there are addresses, so no machine is lent it either.
    path = directory(tmp_path, hidden_size=10**8, vocab_size=10**6)
    save_file({"model.norm.weight": torch.zeros(16)}, path / "model.safetensors")
    message = message_of(EngineConfig(tmp_path, device="cpu"))
    assert message == f"{tmp_path}: the weights do not fit into the memory of cpu"


@pytest.mark.parametrize(
    ("name", "shape", "cause"),
    [
        ("model.norm.weight", [16], "weights are missing for .* parameters, the first is embed"),
        ("model.norm.weight", [17], "tensor model.norm.weight has shape .17., the configuration wants .16."),
        ("model.layers.0.self_attn.q_proj.bias", [16], "tensor model.layers.0.self_attn.q_proj.bias has no place"),
        ("vision.weight", [16], "tensor vision.weight has no place in a llama model"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, name: str, shape: list[int], cause: str) -> None:
    save_file({name: torch.zeros(shape)}, tmp_path / "model.safetensors")
    assert re.search(cause, message_of(EngineConfig(directory(tmp_path))))


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "the file is empty"), (b"PK\x03\x04 something", "not a GGUF file"), (b"GGUF\x03", "corrupt GGUF header")],
)
def test_a_file_that_is_not_gguf_is_named(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert message_of(EngineConfig(path)).startswith(f"{path}: {cause}")


def test_a_gguf_file_cut_short_is_corrupt(tmp_path: Path) -> None:
    path = gguf(tmp_path / "m.gguf", {"general.architecture": "llama"}, cut=3)
    assert "corrupt GGUF header" in message_of(EngineConfig(path))


def test_a_gguf_version_and_architecture_are_named(tmp_path: Path) -> None:
    old = gguf(tmp_path / "old.gguf", {}, version=1)
    assert message_of(EngineConfig(old)) == f"{old}: GGUF version 1 is not supported; supported: 2, 3"
    other = gguf(tmp_path / "other.gguf", {"general.architecture": "mamba"})
    assert message_of(EngineConfig(other)).startswith(
        f"{other}: architecture 'mamba' is not supported; supported: Llama"
    )


def test_a_device_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert message_of(EngineConfig(tmp_path, device="cuda")) == "--device cuda: torch sees no CUDA device"
