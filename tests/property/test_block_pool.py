"""The block pool against a set: what is taken is unique and in range, and a wrong free changes nothing."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headway_engine.core.blocks import BlockPool


class BlockPoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.held: list[list[int]] = []

    @initialize(num_blocks=st.integers(1, 40), block_size=st.integers(1, 32))
    def boot(self, num_blocks: int, block_size: int) -> None:
        self.pool = BlockPool(num_blocks, block_size)

    @rule(count=st.integers(0, 12))
    def allocate(self, count: int) -> None:
        if count > self.pool.num_free:
            with pytest.raises(ValueError, match="are free"):
                self.pool.allocate(count)
        else:
            taken = self.pool.allocate(count)
            assert len(taken) == count
            self.held.append(taken)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1))
        self.pool.free(self.held.pop(index))

    @rule(block=st.integers(-2, 45))
    def a_block_that_is_not_in_use_cannot_be_freed(self, block: int) -> None:
        if block not in self.in_use():
            with pytest.raises(ValueError, match="not in use"):
                self.pool.free([block])

    @invariant()
    def blocks_are_conserved(self) -> None:
        in_use = self.in_use()
        assert len(in_use) == len(set(in_use))
        assert len(in_use) + self.pool.num_free == self.pool.num_blocks
        assert all(1 <= block <= self.pool.num_blocks and not self.pool.is_free(block) for block in in_use)

    def in_use(self) -> list[int]:
        return [block for blocks in self.held for block in blocks]


TestBlockPoolMachine = BlockPoolMachine.TestCase
TestBlockPoolMachine.settings = settings(max_examples=60, stateful_step_count=40)
