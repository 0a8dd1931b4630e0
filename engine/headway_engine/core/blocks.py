"""The pool of KV blocks: which are free, and nothing else. Who holds a block is the sequence's own list.

Blocks are numbered from 1; block 0 belongs to the executor, whose padding rows write there. The free list is a stack: the
block freed last is given out first, while its memory may still be in a cache.
"""


class BlockPool:
    """Hands out block numbers and takes them back."""

    __slots__ = ("_free", "_is_free", "block_size", "num_blocks")

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a pool needs blocks: num_blocks={num_blocks}, block_size={block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks, 0, -1))
        # One flag per block, so that a double free is seen at once and not as two requests sharing memory.
        self._is_free = bytearray([0]) + bytearray([1]) * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that can be given out."""
        return len(self._free)

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the whole pool holds."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks.

        Raises:
            ValueError: fewer are free; the caller has to look first.
        """
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} are free")
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._is_free[block] = 0
        return taken

    def free(self, blocks: list[int]) -> None:
        """Give blocks back.

        Raises:
            ValueError: one of them is free already or is not of this pool.
        """
        for block in blocks:
            if not 1 <= block <= self.num_blocks or self._is_free[block]:
                raise ValueError(f"block {block} is not in use")
            self._is_free[block] = 1
            self._free.append(block)

    def is_free(self, block: int) -> bool:
        """Whether nobody holds `block`."""
        return bool(self._is_free[block])
