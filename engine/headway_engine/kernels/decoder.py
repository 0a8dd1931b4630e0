"""The forward pass of `model/transformer.py` made of this package's kernels, for steps of any mix of decodes and prompts.

    one row:    qkv = skinny(norm(h));  attention;  h += skinny(mixed);  h += skinny(skinny_gated(norm(h)))
    few rows:   x = norm(h += sum of parts);  parts of qkv = narrow(x);  attention;  parts = narrow(mixed); ...
    more rows:  x = norm(h += delta);  qkv = x @ w;  attention;  delta = mixed @ w; ...     very many: h += mixed @ w

In the last layer only the tokens count that the next ones are drawn from, once keys and values are in the cache: of a long
prompt that layer computes little more.

A step is described by tensors alone (`Step`), so the same code runs at once or is captured in a CUDA graph.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it

from headway_engine.kernels import narrow
from headway_engine.kernels.activation import silu_mul
from headway_engine.kernels.decode_attention import SplitPlan, decode_attention, plan_splits
from headway_engine.kernels.launch import to_launch
from headway_engine.kernels.norm import add_rms_norm
from headway_engine.kernels.prefill_attention import prefill_attention
from headway_engine.kernels.rope import HeadNorms, Rotation, Tokens, rotate_and_store
from headway_engine.kernels.skinny import MAX_ROWS, Gain, skinny_linear
from headway_engine.kernels.whole_attention import whole_prompt_attention
from headway_engine.model.config import ModelConfig
from headway_engine.model.transformer import Decoder, KVCache, Layer, rotation_table

# From so many rows on, a product that adds to the residual stream costs less than a norm that does (one H200: 2 to 20 us of a
# product for 4 to 16 of a norm).
_ADDING_ROWS = 1024
_HEAD_DIMS = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class WholePrompt:
    """The beginning of a prompt, which attends to its own keys only; the library's kernel is faster there.

    Attributes:
        start: flat index of its first token.
        end: flat index behind its last one.
        padded: tokens that the library is told it has: a length that it has a plan for, at least its own.
    """

    start: int
    end: int
    padded: int


@dataclass(frozen=True, slots=True)
class Step:
    """The tokens of one launch: first the decodes, then the prompts' chunks.

    Attributes:
        tokens: positions and block tables of all of them.
        num_decodes: leading tokens that decode, at most.
        splits: how the decodes' contexts are split.
        tiles: the queries of the chunks, but those of `whole` (see `prefill_attention.py`); None when there are none.
        whole: chunks for the library's attention.
        decodes: int64 `[1]`, how many of the leading tokens decode; None = `num_decodes`.
        wanted: int64, flat indices of the tokens whose residual stream is asked for; None = all.
    """

    tokens: Tokens
    num_decodes: int
    splits: SplitPlan
    tiles: torch.Tensor | None = None
    whole: tuple[WholePrompt, ...] = ()
    decodes: torch.Tensor | None = None
    wanted: torch.Tensor | None = None

    def slack(self, count: int) -> int:
        """Rows behind the `count` tokens that the last prompt is padded with."""
        last = self.whole[-1] if self.whole else None
        return last.start + last.padded - count if last is not None and last.end == count else 0

    @property
    def is_one_whole(self) -> bool:
        """Whether the step is a single whole prompt."""
        return len(self.whole) == 1 and (self.whole[0].start, self.whole[0].end) == (0, len(self.tokens.positions))

    def wanted_alone(self, kv_heads: int) -> "Step":
        """The wanted tokens of a step whose keys and values are in the cache: each attends as a decode does."""
        tokens, wanted = self.tokens, self.wanted
        of = Tokens(tokens.positions[wanted], tokens.rows[wanted], tokens.tables, tokens.block_size)
        return Step(of, num_decodes=len(of.rows), splits=plan_splits(len(of.rows), kv_heads))


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Gain
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    head_norms: HeadNorms | None
    out: torch.Tensor
    feed_forward_norm: Gain
    gate_up: torch.Tensor
    down: torch.Tensor
    cache: tuple[torch.Tensor, torch.Tensor]


def supports(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether the kernels can run this model; the torch executor can run all."""
    return dtype in (torch.bfloat16, torch.float16) and config.head_dim in _HEAD_DIMS


class FusedDecoder:
    """A decoder with its KV cache, run by kernels."""

    def __init__(self, model: Decoder, cache: KVCache, max_len: int) -> None:
        config = self.config = model.config
        self.embedding = model.embed
        half = config.head_dim // 2
        cos, sin = rotation_table(config, max_len, model.embed.device, torch.float32)
        # `rotation_table` repeats the half with the sine's sign turned; the second one is plain.
        self._rotation = Rotation(cos[:, :half].contiguous(), sin[:, half:].contiguous())
        self._layers = [_layer(cast("Layer", layer), sides) for layer, sides in zip(model.layers, cache, strict=True)]
        self._norm = Gain(model.norm.weight, model.norm.eps)
        self._head = model.head.weight
        self._narrow_fits = all(
            narrow.fits(weight)
            for layer in self._layers
            for weight in (layer.qkv, layer.out, layer.gate_up, layer.down)
        )

    def hidden(self, h: torch.Tensor, step: Step) -> torch.Tensor:
        """The residual stream after all layers, `[tokens, hidden]` or as many rows as `step.wanted` names.

        `h` holds the embeddings of all tokens and is overwritten.
        """
        if h.shape[0] <= MAX_ROWS:
            h = self._one(h, step)
        elif h.shape[0] <= narrow.MAX_ROWS and self._narrow_fits:
            h = self._few(h, step)
        else:
            return self._many(h, step)
        return h if step.wanted is None else h[step.wanted]

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """`[rows, vocabulary]` of these rows of the residual stream, in the model's type."""
        if h.shape[0] <= MAX_ROWS:
            return skinny_linear(h, self._head, gain=self._norm)
        return F.linear(add_rms_norm(h, None, self._norm.weight, self._norm.eps), self._head)

    def _one(self, h: torch.Tensor, step: Step) -> torch.Tensor:
        for layer in to_launch(self._layers):
            qkv = skinny_linear(h, layer.qkv, gain=layer.attention_norm, bias=layer.qkv_bias)
            skinny_linear(self._mixed(layer, step, self._stored(layer, step, qkv)), layer.out, add_to=h)
            inner = skinny_linear(h, layer.gate_up, gain=layer.feed_forward_norm, gated=True)
            skinny_linear(inner, layer.down, add_to=h)
        return h

    def _few(self, h: torch.Tensor, step: Step) -> torch.Tensor:
        delta: torch.Tensor | None = None
        for layer in to_launch(self._layers):
            x = add_rms_norm(h, delta, layer.attention_norm.weight, layer.attention_norm.eps)
            parts = narrow.narrow_linear(x, layer.qkv)
            qkv = self._stored(layer, step, h.new_empty(parts.shape[1:]), parts, layer.qkv_bias)
            delta = narrow.narrow_linear(self._mixed(layer, step, qkv), layer.out)
            x = add_rms_norm(h, delta, layer.feed_forward_norm.weight, layer.feed_forward_norm.eps)
            if narrow.gates(layer.gate_up, h.shape[0]):
                inner = narrow.narrow_gated(x, layer.gate_up)
            else:
                inner = silu_mul(narrow.narrow_linear(x, layer.gate_up), h.dtype)
            delta = narrow.narrow_linear(inner, layer.down)
        add_rms_norm(h, delta, self._norm.weight, self._norm.eps)
        return h

    def _many(self, h: torch.Tensor, step: Step) -> torch.Tensor:
        delta: torch.Tensor | None = None
        layers = to_launch(self._layers)
        for layer in layers:
            x = add_rms_norm(h, delta, layer.attention_norm.weight, layer.attention_norm.eps)
            qkv = self._stored(layer, step, _linear(x, layer.qkv, layer.qkv_bias, step.slack(x.shape[0])))
            if layer is layers[-1] and step.wanted is not None:
                h, mixed = self._last(layer, step, h, qkv)
                if not len(h):
                    return h
            else:
                mixed = self._mixed(layer, step, qkv)
            delta = _onto(h, mixed, layer.out)
            x = add_rms_norm(h, delta, layer.feed_forward_norm.weight, layer.feed_forward_norm.eps)
            delta = _onto(h, silu_mul(F.linear(x, layer.gate_up)), layer.down)
        return h if delta is None else h.add_(delta)

    def _last(self, layer: _Layer, step: Step, h: torch.Tensor, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The wanted rows of the residual stream and of what attention makes of them."""
        wanted = h[step.wanted]
        if not len(wanted):  # the middle of a prompt: keys and values are all of it
            return wanted, wanted
        if step.num_decodes:  # a graph has room for more than there are, and whatever fills it would attend too
            return wanted, self._mixed(layer, step, qkv)[step.wanted]
        return wanted, self._mixed(layer, step.wanted_alone(self.config.num_kv_heads), qkv[step.wanted])

    def _stored(
        self,
        layer: _Layer,
        step: Step,
        qkv: torch.Tensor,
        parts: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Queries, keys and values by head, rotated, and in the cache; zeros in the slack behind them."""
        qkv = qkv.view(qkv.shape[0], -1, self.config.head_dim)
        tokens = qkv[: step.tokens.positions.shape[0]]
        rotate_and_store(tokens, layer.cache, step.tokens, self._rotation, layer.head_norms, parts, bias)
        return qkv

    def _mixed(self, layer: _Layer, step: Step, room: torch.Tensor) -> torch.Tensor:
        """What attention makes of each token, `[tokens, heads * head_dim]`."""
        heads, dim = self.config.num_heads, self.config.head_dim
        qkv = room[: step.tokens.positions.shape[0]]
        if step.is_one_whole:
            return whole_prompt_attention(room, heads)[: len(qkv)].reshape(len(qkv), heads * dim)
        out = qkv.new_empty(qkv.shape[0], heads, dim)
        if step.num_decodes:
            count = step.num_decodes
            decode_attention(qkv[:count], layer.cache, step.tokens, out[:count], step.splits, step.decodes)
        if step.tiles is not None:
            prefill_attention(qkv, layer.cache, step.tokens, step.tiles, out)
        for chunk in step.whole:
            # Causal: what stands behind the prompt changes nothing of it. It has to be finite, so it is not another's prompt.
            rows = room[chunk.start : chunk.start + chunk.padded]
            if chunk.end < len(qkv):
                rows = room.new_zeros(chunk.padded, *room.shape[1:])
                rows[: chunk.end - chunk.start] = qkv[chunk.start : chunk.end]
            out[chunk.start : chunk.end] = whole_prompt_attention(rows, heads)[: chunk.end - chunk.start]
        return out.view(out.shape[0], heads * dim)


def _layer(layer: Layer, cache: tuple[torch.Tensor, torch.Tensor]) -> _Layer:
    attention, feed_forward = layer.attention, layer.feed_forward
    norms = None
    if attention.q_norm is not None and attention.k_norm is not None:
        norms = HeadNorms(attention.q_norm.weight, attention.k_norm.weight, attention.q_norm.eps)
    return _Layer(
        attention_norm=Gain(layer.attention_norm.weight, layer.attention_norm.eps),
        qkv=attention.qkv.weight,
        qkv_bias=attention.qkv.bias,
        head_norms=norms,
        out=attention.out.weight,
        feed_forward_norm=Gain(layer.feed_forward_norm.weight, layer.feed_forward_norm.eps),
        gate_up=feed_forward.gate_up.weight,
        down=feed_forward.down.weight,
        cache=cache,
    )


def _onto(h: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    """`x @ weight.T`, to be added to `h`; None where the product has done that."""
    if h.shape[0] < _ADDING_ROWS:
        return F.linear(x, weight)
    h.addmm_(x, weight.t())
    return None


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, slack: int) -> torch.Tensor:
    """`x @ weight.T + bias`, with `slack` rows of zeros behind it."""
    if not slack:
        return F.linear(x, weight, bias)
    count = x.shape[0]
    out = x.new_empty(count + slack, weight.shape[0])
    out[count:].zero_()
    if bias is None:
        torch.mm(x, weight.t(), out=out[:count])
    else:
        torch.addmm(bias, x, weight.t(), out=out[:count])
    return out
