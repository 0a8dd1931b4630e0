"""The decoder's step as one call into C (native/), for any batch of tokens.

Weights are taken out of the torch decoder one by one and laid out for the vector units; norms become float32. The residual
stream, norms, rotation and attention are computed in float32. What products multiply is stored as

    float32    both as they are
    bfloat16   both rounded to bfloat16
    int8       weights as bytes times a scale per output, inputs as bytes times a scale for each 32, found in each step

and the KV cache and the embedding are float32 or bfloat16 (int8: bfloat16). bfloat16 is multiplied by the CPU's matrix unit
(AMX) where there is one. Every row is computed alone, with sums in one order: a token's logits do not depend on which other
tokens are in the step, or on how a prompt was cut into chunks.
"""

import contextlib
import ctypes
import mmap
import weakref
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it
from torch import nn

from headway_engine.model.attention import StepLayout
from headway_engine.model.config import ModelConfig
from headway_engine.model.sampler import Likeliest
from headway_engine.model.transformer import Decoder, KVCache, Layer, Linear, Norm, rotation_table
from headway_engine.native import library

TYPES = {"float32": 0, "bfloat16": 1, "int8": 2}
TILE = 32  # outputs side by side
_VECTOR = 16  # floats
_LINE = 64  # bytes that the CPU fetches at once


def problem(config: ModelConfig, dtype: str) -> str | None:
    """Why a model of this shape cannot be computed natively here with weights of this type, or None."""
    for name in ("hidden_size", "intermediate_size", "head_dim"):
        if getattr(config, name) % _VECTOR:
            return f"{name} {getattr(config, name)} is no multiple of {_VECTOR}"
    return library.problem(dtype)


class NativeDecoder:
    """A decoder on the CPU. One caller at a time; its threads sleep between two steps."""

    def __init__(self, model: Decoder, dtype: str, max_len: int, threads: int) -> None:
        """Take the weights of `model`, which is of no use afterwards.

        Args:
            model: on the CPU, in the type that embedding and KV cache shall have.
            dtype: `float32`, `bfloat16` or `int8`, for which `problem` has answered None.
            max_len: longest context in tokens.
            threads: how many compute, the caller included.
        """
        loaded = library.load()
        if isinstance(loaded, str):
            raise RuntimeError(loaded)  # noqa: TRY004 - a cause, which `problem` has told
        self.config, self.embed = model.config, model.embed.data
        self._library, self._dtype, self._kept = loaded, dtype, [self.embed]
        self._room = HugePages()
        self._layers = (library.Layer * model.config.num_layers)(
            *(self._layer(layer) for layer in model.layers if isinstance(layer, Layer))
        )
        self._model = self._shape(max_len)
        self._model.norm = self._norm(model.norm)
        self._model.head = self._matrix(model.head)
        self._bound: KVCache | None = None
        self._context = loaded.headway_open(ctypes.byref(self._model), threads)
        if not self._context:
            raise MemoryError("no memory for the work space of the CPU's threads")
        weakref.finalize(self, loaded.headway_close, self._context)

    def logits(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        layout: StepLayout,
        cache: KVCache,
        sampled_rows: torch.Tensor,
    ) -> tuple[torch.Tensor, Likeliest]:
        """Compute one step; see `Decoder.forward`.

        Returns:
            float32 logits, `[len(sampled_rows), vocabulary]`, whose rows may be padded, and what is known of them.
        """
        self._bind(cache, layout.block_size)
        width = max(map(len, layout.block_tables))
        tables = [(*table, *(0,) * (width - len(table))) for table in layout.block_tables]
        sequences = torch.repeat_interleave(torch.tensor(layout.query_lens))
        order = _sampled_first(sampled_rows, len(token_ids))
        out = torch.empty(len(sampled_rows), self._model.head.outputs)
        likeliest = torch.empty(len(sampled_rows), dtype=torch.int32)
        arrays = [
            values.to(torch.int32).contiguous()
            for values in (token_ids[order], positions[order], sequences[order], torch.tensor(tables))
        ]
        step = library.Step(
            *(len(token_ids), len(sampled_rows), width),
            *(values.data_ptr() for values in (*arrays, out, likeliest)),
        )
        if not self._library.headway_step(self._context, ctypes.byref(step)):
            raise MemoryError(f"no memory for a step of {len(token_ids)} tokens")
        return out[:, : self.config.vocab_size], Likeliest(likeliest.long(), likeliest >= 0)

    def _bind(self, cache: KVCache, block_size: int) -> None:
        if self._bound is cache and self._model.block_size == block_size:
            return
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        self._bound, self._model.block_size = cache, block_size

    def _shape(self, max_len: int) -> library.Model:
        config = self.config
        cos, sin = rotation_table(config, max_len, self.embed.device, torch.float32)
        half = config.head_dim // 2
        stored = TYPES[str(self.embed.dtype).removeprefix("torch.")]
        return library.Model(
            type=TYPES[self._dtype],
            embed_type=stored,
            kv_type=stored,
            amx=library.amx(),
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocabulary=config.vocab_size,
            num_layers=config.num_layers,
            max_len=max_len,
            eps=config.rms_norm_eps,
            cos=self._floats(cos[:, half:]),
            sin=self._floats(sin[:, half:]),
            embed=self.embed.data_ptr(),
            layers=self._layers,
        )

    def _layer(self, layer: Layer) -> library.Layer:
        attention, feed_forward = layer.attention, layer.feed_forward
        return library.Layer(
            attention_norm=self._norm(layer.attention_norm),
            q_norm=self._norm(attention.q_norm),
            k_norm=self._norm(attention.k_norm),
            feed_forward_norm=self._norm(layer.feed_forward_norm),
            qkv=self._matrix(attention.qkv),
            out=self._matrix(attention.out),
            gate_up=self._matrix(_side_by_side(feed_forward.gate_up)),
            down=self._matrix(feed_forward.down),
        )

    def _matrix(self, linear: Linear) -> library.Matrix:
        packed = pack(linear.weight.data, self._dtype)
        linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        return library.Matrix(
            weight=self._keep(self._room.copy(packed.weight)),
            scale=None if packed.scale is None else self._keep(packed.scale),
            bias=None if linear.bias is None else self._floats(F.pad(linear.bias.data, (0, -len(linear.bias) % TILE))),
            groups=packed.weight.shape[1],
            outputs=packed.weight.shape[0] * TILE,
        )

    def _norm(self, norm: Norm | None) -> int | None:
        return None if norm is None else self._floats(norm.weight.data)

    def _floats(self, values: torch.Tensor) -> int:
        return self._keep(values.to(torch.float32).contiguous())

    def _keep(self, values: torch.Tensor) -> int:
        """The address of values, which live as long as this decoder."""
        self._kept.append(values)
        return values.data_ptr()


def _sampled_first(sampled_rows: torch.Tensor, rows: int) -> torch.Tensor:
    """The order in which the library wants a step's rows; each is computed alone, so any order gives the same bits."""
    others = torch.ones(rows, dtype=torch.bool)
    others[sampled_rows] = False
    return torch.cat((sampled_rows, others.nonzero().flatten()))


def _side_by_side(gate_up: Linear) -> Linear:
    """Each vector of gates beside the one that it gates, so that the library has both sums at once; `gate_up` is changed."""
    weight = gate_up.weight.data
    gate_up.weight.data = weight.view(2, -1, _VECTOR, weight.shape[1]).transpose(0, 1).reshape(weight.shape)
    return gate_up


class HugePages:
    """Room for weights, in pages of 2 MiB where the kernel has them.

    Each step reads all of it once, and would spend a sixth of its time on finding pages of 4 KiB. What torch allocates is
    written before one could ask for them.
    """

    _CHUNK = 64 << 20

    def __init__(self) -> None:
        """Nothing is taken yet."""
        self._rest = torch.empty(0, dtype=torch.uint8)

    def copy(self, values: torch.Tensor) -> torch.Tensor:
        """The values, in this room; it lives as long as what lies in it."""
        if values.nbytes > len(self._rest):
            # Private: shared memory, Python's default, has large pages on few systems, whatever is asked.
            memory = mmap.mmap(-1, max(values.nbytes, self._CHUNK), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):  # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
            self._rest = torch.frombuffer(memory, dtype=torch.uint8)
        taken = self._rest[: values.nbytes].view(values.dtype).view(values.shape).copy_(values)
        self._rest = self._rest[-(-values.nbytes // _LINE) * _LINE :]
        return taken


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix as native/headway.h wants it.

    Attributes:
        weight: `[outputs / 32, groups, 32, inputs of a group]`.
        scale: int8: float32, `[outputs]`.
    """

    weight: torch.Tensor
    scale: torch.Tensor | None = None


def pack(weight: torch.Tensor, dtype: str) -> Packed:
    """Lay out a `[outputs, inputs]` matrix, both padded to 32 with zeros."""
    padded = F.pad(weight, (0, -weight.shape[1] % TILE, 0, -weight.shape[0] % TILE))
    if dtype != "int8":
        return Packed(_tiles(padded.to(torch.float32 if dtype == "float32" else torch.bfloat16)))
    padded = padded.float()
    scale = padded.abs().amax(1) / 127
    # An output without any weight has the scale 0, whatever its bytes.
    quantized = (padded / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8)
    return Packed(_tiles(quantized.view(torch.uint8) ^ 128), scale)


def _tiles(weight: torch.Tensor) -> torch.Tensor:
    outputs, inputs = weight.shape
    group = 4 // weight.itemsize
    return weight.view(outputs // TILE, TILE, inputs // group, group).transpose(1, 2).contiguous()
