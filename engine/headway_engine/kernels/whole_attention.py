"""Causal attention of a whole prompt to itself, by the fastest library that is there.

    FlashAttention-3    its wheel is installed (extra `fa3`), a Hopper GPU, bfloat16, heads of 128 elements, or of 64 in long prompts
    torch               else: cuDNN on a GPU, which makes a plan for each length that it has not seen (`runtime/cuda_pack.py`)

One H200, a layer of 32 query heads of 128: 60 us with the former and 87 with the latter at 2,048 tokens, 198 and 290 at 3,900.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it

try:
    from fa3_fwd_interface import flash_attn_func
except (ImportError, OSError) as error:  # not installed, or built for another CUDA
    flash_attn_func = None
    _missing = str(error)

_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
# With heads of 64 elements torch is ahead of it up to here.
_LONG = 3072


def library(head_dim: int, dtype: torch.dtype) -> str:
    """What attends in prompts that are long enough for it, for the log."""
    if flash_attn_func is None:
        return f"torch; FlashAttention-3 is not there: {_missing}"
    return "FlashAttention-3" if _flash(_LONG, head_dim, dtype) else "torch"


def whole_prompt_attention(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """Attend from each token to those before it and itself, `[tokens, heads, head_dim]`.

    Args:
        qkv: `[tokens, heads + 2 * kv_heads, head_dim]`; the rows may be part of a longer tensor.
        heads: query heads.
    """
    kv_heads = (qkv.shape[1] - heads) // 2
    query, key, value = torch.split(qkv, [heads, kv_heads, kv_heads], dim=1)
    if _flash(qkv.shape[0], qkv.shape[2], qkv.dtype):
        out: torch.Tensor = flash_attn_func(query[None], key[None], value[None], causal=True)
        return out[0]
    query, key, value = (side.transpose(0, 1).unsqueeze(0) for side in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=heads != kv_heads)
    return out.squeeze(0).transpose(0, 1)


def _flash(tokens: int, head_dim: int, dtype: torch.dtype) -> bool:
    fits = head_dim == 128 or (head_dim == 64 and tokens >= _LONG)
    return flash_attn_func is not None and _HOPPER and dtype == torch.bfloat16 and fits
