"""The decoder of all supported architectures, on a flat batch of tokens: `[tokens, hidden]`, no padding.

    h = embed(tokens)
    each layer:   h += out(attention(rope(qkv(norm(h)))))      qkv: one matrix for q, k and v
                  h += down(silu(gate(norm(h))) * up(norm(h))) gate and up: one matrix
    logits = head(norm(h))                                       of the sampled rows: the last layer drops the others

Sequences meet only in attention, which knows the layout of the step. Parameters are fused at loading (`weights.py`).
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it
from torch import nn

from headway_engine.model.attention import AttentionStep
from headway_engine.model.config import LinearScaling, Llama3Scaling, ModelConfig

KVCache = list[tuple[torch.Tensor, torch.Tensor]]


class Norm(nn.Module):
    """RMSNorm over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.size, self.eps = (size,), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalized input."""
        return F.rms_norm(x, self.size, self.weight, self.eps)


class Linear(nn.Module):
    """A matrix, with or without bias."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        return F.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Self-attention with grouped KV heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Linear(config.hidden_size, width, bias=config.attention_bias)
        self.out = Linear(self.heads * self.head_dim, config.hidden_size)
        self.q_norm = Norm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = Norm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        step: AttentionStep,
        cache: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """What the heads have mixed for the new tokens, the input of `out`; their keys and values enter the cache."""
        rotated = self.heads + self.kv_heads
        qkv = self.qkv(x).view(-1, rotated + self.kv_heads, self.head_dim)
        qk, value = qkv[:, :rotated], qkv[:, rotated:]
        if self.q_norm is not None and self.k_norm is not None:
            qk = torch.cat((self.q_norm(qk[:, : self.heads]), self.k_norm(qk[:, self.heads :])), dim=1)
        qk = rotate(qk, *rotation)
        return step.attend(qk[:, : self.heads], qk[:, self.heads :], value, cache)


class FeedForward(nn.Module):
    """The gated feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.hidden_size, 2 * config.intermediate_size)
        self.down = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's output."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: torch.Tensor = self.down(F.silu(gate).mul_(up))
        return out


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        h: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        step: AttentionStep,
        cache: tuple[torch.Tensor, torch.Tensor],
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The residual stream after this layer; `h` is overwritten. With `rows` that of these rows only."""
        mixed = self.attention(self.attention_norm(h), rotation, step, cache)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
        h += self.attention.out(mixed)
        h += self.feed_forward(self.feed_forward_norm(h))
        return h


class Decoder(nn.Module):
    """The whole model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size), requires_grad=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.head.weight = self.embed
        self.rotation: tuple[torch.Tensor, torch.Tensor] | None = None

    def prepare(self, max_len: int) -> None:
        """Compute the rotation table for `max_len` positions, on the weights' device and in their type."""
        self.rotation = rotation_table(self.config, max_len, self.embed.device, self.embed.dtype)

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        step: AttentionStep,
        cache: KVCache,
        sampled_rows: torch.Tensor,
    ) -> torch.Tensor:
        """Compute one step.

        Args:
            token_ids: `[tokens]`, the tokens of all sequences one after the other.
            positions: `[tokens]`, their positions in their sequences.
            step: attention for this step's layout.
            cache: keys and values of each layer.
            sampled_rows: rows whose next token is wanted; may be empty.

        Returns:
            float32 logits, `[len(sampled_rows), vocabulary]`
        """
        if self.rotation is None:
            raise RuntimeError("prepare() comes first")
        h = F.embedding(token_ids, self.embed)
        cos, sin = self.rotation
        rotation = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            # Later tokens read the last layer's keys and values, and nothing else of it.
            h = layer(h, rotation, step, layer_cache, sampled_rows if layer is self.layers[-1] else None)
        logits: torch.Tensor = self.head(self.norm(h))
        return logits.float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (i, i + half) of the last dimension; `sin` carries the sign of the first half."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, x.roll(half, -1), sin)


def rotation_table(
    config: ModelConfig, max_len: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines, `[max_len, head_dim]` each, as `rotate` wants them."""
    half = config.head_dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=device) * 2 / config.head_dim
    frequencies = _stretch(1.0 / config.rope_theta**exponents, config.rope_scaling)
    angles = torch.outer(torch.arange(max_len, dtype=torch.float32, device=device), frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), 1).to(dtype), torch.cat((-sin, sin), 1).to(dtype)


def _stretch(frequencies: torch.Tensor, scaling: Llama3Scaling | LinearScaling | None) -> torch.Tensor:
    if scaling is None:
        return frequencies
    if isinstance(scaling, LinearScaling):
        return frequencies / scaling.factor
    # Turns that a frequency makes over the original context: many are kept, few are slowed down, between is blended.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor
