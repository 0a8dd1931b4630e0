"""The pool of KV blocks: who may have one, and which still hold what somebody may ask for again.

Blocks are numbered from 1; block 0 belongs to the executor, whose padding rows write there. Who holds a block is the
sequence's own list; the pool counts the holders. A block without holders is free. The free list is a stack: the block freed
last is given out first, while its memory may still be in a cache.

The prefix cache: a full block may be registered under the tokens that it holds and the block before it, back to the first
one, whose place is taken by a salt. So an entry stands for a whole prefix, and it is found by comparing tokens, not by a
hash that two prefixes might share. A registered block without holders keeps its content until blocks are needed, the one
unused for longest first. What hangs on an evicted block is never found again, and falls out in its time.
"""

from collections import OrderedDict
from collections.abc import Sequence

# What comes before a block: the entry of the block before it, or the salt of its prompt.
Prefix = int | str


class BlockPool:
    """Hands out block numbers and takes them back.

    Args:
        num_blocks: blocks that sequences may use.
        block_size: tokens per block.
        caching: keep what registered blocks hold.
    """

    __slots__ = (
        "_block_of",
        "_entries",
        "_free",
        "_holders",
        "_idle",
        "_key_of",
        "block_size",
        "caching",
        "num_blocks",
    )

    def __init__(self, num_blocks: int, block_size: int, *, caching: bool = True) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a pool needs blocks: num_blocks={num_blocks}, block_size={block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.caching = caching
        self._free = list(range(num_blocks, 0, -1))
        self._holders = [0] * (num_blocks + 1)
        self._idle: OrderedDict[int, None] = OrderedDict()  # registered and free, the longest unused first
        self._block_of: dict[tuple[Prefix, tuple[int, ...]], tuple[int, int]] = {}  # -> block, entry
        self._key_of: dict[int, tuple[Prefix, tuple[int, ...]]] = {}
        self._entries = 0  # a number is never used again

    @property
    def num_free(self) -> int:
        """Blocks that can be given out."""
        return len(self._free) + len(self._idle)

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the whole pool holds."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def holders(self, block: int) -> int:
        """How many sequences hold `block`."""
        return self._holders[block]

    def is_free(self, block: int) -> bool:
        """Whether nobody holds `block`."""
        return self._holders[block] == 0

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks of unknown content.

        Raises:
            ValueError: fewer are free; the caller has to look first.
        """
        if count > self.num_free:
            raise ValueError(f"{count} blocks wanted, {self.num_free} are free")
        taken = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """Hold blocks that `match` found, beside whoever holds them already."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._idle[block]
            self._holders[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Give blocks back, in the order of their tokens.

        Raises:
            ValueError: one of them is free already or is not of this pool.
        """
        for block in reversed(blocks):  # the end of a prefix is worth less than its beginning, so it is evicted first
            if not 1 <= block <= self.num_blocks or self._holders[block] == 0:
                raise ValueError(f"block {block} is not in use")
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._key_of:
                self._idle[block] = None
            else:
                self._free.append(block)

    def match(self, tokens: Sequence[int], salt: str) -> tuple[list[int], Prefix]:
        """The blocks that hold the beginning of `tokens`, all but the last token at most, and what stands for them."""
        found: list[int] = []
        prefix: Prefix = salt
        size = self.block_size
        for start in range(0, (len(tokens) - 1) // size * size if self._block_of else 0, size):
            hit = self._block_of.get((prefix, tuple(tokens[start : start + size])))
            if hit is None:
                break
            block, prefix = hit
            found.append(block)
        return found, prefix

    def register(self, block: int, prefix: Prefix, tokens: tuple[int, ...]) -> Prefix:
        """Remember that a block in use holds `tokens` after `prefix`; returns what stands for both.

        When another block holds them already, that one stays the one that is found.
        """
        key = (prefix, tokens)
        known = self._block_of.get(key)
        if known is not None:
            return known[1]
        if not self.caching or block in self._key_of:
            return prefix
        self._entries += 1
        self._block_of[key] = block, self._entries
        self._key_of[block] = key
        return self._entries

    def forget(self, blocks: Sequence[int]) -> None:
        """What these blocks in use hold shall not be found again."""
        for block in blocks:
            key = self._key_of.pop(block, None)
            if key is not None:
                del self._block_of[key]

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._block_of[self._key_of.pop(block)]
        return block
