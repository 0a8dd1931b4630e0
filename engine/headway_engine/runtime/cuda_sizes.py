"""What a CUDA executor allocates for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CudaSizes:
    """Bounds of what is computed, fixed for the life of the executor.

    Attributes:
        num_blocks: KV blocks for sequences.
        block_size: tokens per block.
        max_seqs: sequences in one step.
        max_tokens: tokens in one step.
        max_len: tokens of a sequence.
    """

    num_blocks: int
    block_size: int
    max_seqs: int
    max_tokens: int
    max_len: int
