# SPDX-License-Identifier: Apache-2.0
"""A cache of blocks that are numbers, and who holds them."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from agentcg.kv.engines.keeper import Keeper
from agentcg.kv.policies import POLICIES

BLOCK_TOKENS = 100


class Blocks:
    """Ten blocks. What is free is taken from the front of a queue, in which cached blocks stay as long as they can."""

    block_tokens = BLOCK_TOKENS

    def __init__(self) -> None:
        self.queue = list(range(10))
        self.holders: Counter[int] = Counter()

    @property
    def used(self) -> float:
        return 1 - len(self.queue) / 10

    def free_blocks(self) -> int:
        return len(self.queue)

    def hold(self, blocks: Sequence[int]) -> None:
        self.holders.update(blocks)
        self.queue = [block for block in self.queue if block not in blocks]

    def release(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            assert self.holders[block] > 0
            self.holders[block] -= 1
            if not self.holders[block]:
                self.queue.append(block)

    def new(self, count: int) -> list[int]:
        blocks = self.queue[:count]
        assert len(blocks) == count, "nobody may ask for more than there is"
        self.hold(blocks)
        return blocks


class Engine:
    """An engine that serves whatever it is told to. A block takes a second to compute."""

    def __init__(self, policy: str = "soft_pins", pin_max_sec: float = 600.0) -> None:
        self.now = 0.0
        self.blocks = Blocks()
        self.keeper = Keeper[int](POLICIES[policy](), self.blocks, pin_max_sec=pin_max_sec, clock=lambda: self.now)
        self.keeper.prefill.observe(1000, 10.0)
        self.holds: dict[str, list[int]] = {}
        self._number = 0

    def ask(self, session: str | None, blocks: int = 3, **options: object) -> str:
        self._number += 1
        name = f"r{self._number}"
        self.keeper.arrive(name, session, blocks * BLOCK_TOKENS, **options)  # type: ignore[arg-type]
        return name

    def start(self, name: str, blocks: int = 3, found: Sequence[int] = ()) -> bool:
        """Let a request run if there is room for it."""
        while (lacking := blocks - len(found) - len(self.blocks.queue)) > 0:
            if not self.keeper.make_room(name, lacking, found=found, alone=not self.holds):
                return False
        self.blocks.hold(found)
        self.holds[name] = [*found, *self.blocks.new(blocks - len(found))]
        self.keeper.start(name, len(found) * BLOCK_TOKENS)
        return True

    def end(self, name: str) -> None:
        blocks = self.holds.pop(name)
        self.keeper.end(name, blocks)
        self.blocks.release(blocks)

    def turn(self, session: str | None, blocks: int = 3, **options: object) -> list[int]:
        """Serve a request in no time; return its blocks."""
        name = self.ask(session, blocks, **options)
        assert self.start(name, blocks)
        held = list(self.holds[name])
        self.end(name)
        return held


@pytest.fixture
def new_engine() -> Callable[..., Engine]:
    return Engine
