"""The tokenizer of a model, made with the `tokenizers` library alone.

A Hugging Face directory has it ready in `tokenizer.json`. A GGUF file has the vocabulary, the merges and the name of the
splitting rule, from which the same byte-level BPE is built here: `transformers` does that too, in 8 s of imports more.
"""

import json
import re
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from headway_engine.model.config import token_ids
from headway_engine.model.errors import ModelFileError
from headway_engine.model.gguf import GgufFile

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# `tokenizer.ggml.pre` -> how text is cut before merging. None: GPT-2's own rule with each digit apart.
_SPLITS: Final[dict[str, str | None]] = {
    "smollm": None,
    "llama-bpe": _WORDS.format(digits=r"\p{N}{1,3}"),
    "qwen2": _WORDS.format(digits=r"\p{N}"),
}
# ASCII white space as itself and as byte-level BPE writes it (byte b as character 256 + b), with something on both sides.
_SPACES = r"\t-\r " + "".join(chr(256 + byte) for byte in (*range(9, 14), 32))
_TWO_WORDS = re.compile(f"[^{_SPACES}][{_SPACES}]+[^{_SPACES}]")
# Values of `tokenizer.ggml.token_type`.
_CONTROL, _USER_DEFINED = 3, 4


class ModelTokenizer:
    """Text to token ids and back. Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: tuple[int, ...], chat_template: str) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._chat_template = chat_template
        self._words_apart = _words_apart(tokenizer)

    @classmethod
    def of(cls, serialized: str, eos_token_ids: tuple[int, ...], chat_template: str) -> "ModelTokenizer":
        """The tokenizer whose `serialized` this is."""
        return cls(Tokenizer.from_str(serialized), eos_token_ids, chat_template)

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def words_apart(self) -> bool:
        """No token holds parts of two words that ASCII white space separates: a text has no fewer tokens than words."""
        return self._words_apart

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The model's own end-of-sequence tokens."""
        return self._eos_token_ids

    @property
    def chat_template(self) -> str:
        """Jinja source, empty when there is none."""
        return self._chat_template

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, special tokens added as the model expects for a plain prompt."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """The text of `ids`; incomplete UTF-8 shows as U+FFFD."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def serialized(self) -> str:
        """All of it, as the contents of a `tokenizer.json`."""
        return self._tokenizer.to_str()


def from_directory(path: Path, config_eos: tuple[int, ...]) -> ModelTokenizer:
    """The tokenizer of a Hugging Face directory.

    Args:
        path: the directory.
        config_eos: end tokens named by `config.json`.

    Raises:
        ModelFileError: `tokenizer.json` is missing or corrupt.
    """
    file = path / "tokenizer.json"
    if not file.exists():
        raise ModelFileError(f"{file}: No such file or directory")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ModelFileError(f"{file}: cannot read the tokenizer: {error}") from error
    settings = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").exists() else {}
    generation = read_json(path / "generation_config.json") if (path / "generation_config.json").exists() else {}
    # Chat models list more end tokens for generation than the base configuration does.
    eos = token_ids(generation.get("eos_token_id")) or config_eos or _named_token(tokenizer, settings.get("eos_token"))
    template_file = path / "chat_template.jinja"
    template = template_file.read_text() if template_file.exists() else settings.get("chat_template")
    return ModelTokenizer(tokenizer, eos, template if isinstance(template, str) else "")


def from_gguf(file: GgufFile, eos_token_ids: tuple[int, ...]) -> ModelTokenizer:
    """The byte-level BPE tokenizer that a GGUF file describes.

    Raises:
        ModelFileError: it is of another kind, or its splitting rule is not known.
    """
    kind, rule = file.metadata.get("tokenizer.ggml.model"), file.metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or not isinstance(rule, str) or rule not in _SPLITS:
        raise ModelFileError(
            f"{file.path}: tokenizer {kind!r} with rule {rule!r} is not supported; "
            f"supported: 'gpt2' with {', '.join(map(repr, _SPLITS))}"
        )
    tokens = _strings(file, "tokenizer.ggml.tokens")
    merges = [merge.split(" ", 1) for merge in _strings(file, "tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        bpe = models.BPE(
            vocab=vocabulary, merges=[(left, right) for left, right in merges], ignore_merges=rule == "llama-bpe"
        )
    except Exception as error:  # the library raises nothing narrower
        raise ModelFileError(f"{file.path}: the tokenizer's merges do not fit its vocabulary: {error}") from error
    tokenizer = Tokenizer(bpe)
    split = _SPLITS[rule]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        if split is None
        else [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = file.metadata.get("tokenizer.ggml.token_type")
    marked = list(zip(tokens, types, strict=False)) if isinstance(types, list) else []
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in marked if k == _CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, k in marked if k == _USER_DEFINED])
    bos = file.metadata.get("tokenizer.ggml.bos_token_id")
    if file.metadata.get("tokenizer.ggml.add_bos_token", rule == "llama-bpe") and isinstance(bos, int):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    template = file.metadata.get("tokenizer.chat_template")
    return ModelTokenizer(tokenizer, eos_token_ids, template if isinstance(template, str) else "")


def _words_apart(tokenizer: Tokenizer) -> bool:
    """Read from the vocabulary. False where that cannot tell: text that is rewritten or cut first, or other alphabets."""
    kept = tokenizer.normalizer is None or isinstance(tokenizer.normalizer, normalizers.NFC)
    byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel) and tokenizer.truncation is None
    return kept and byte_level and not any(_TWO_WORDS.search(token) for token in tokenizer.get_vocab())


def read_json(file: Path) -> dict[str, object]:
    """A JSON object from a file.

    Raises:
        ModelFileError: the file is missing or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise ModelFileError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{file}: a JSON object is expected")
    return value


def _strings(file: GgufFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ModelFileError(f"{file.path}: {key} must be a list of strings")
    return value


def _named_token(tokenizer: Tokenizer, value: object) -> tuple[int, ...]:
    text = value.get("content") if isinstance(value, dict) else value
    found = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return () if found is None else (found,)
