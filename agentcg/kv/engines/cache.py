# SPDX-License-Identifier: Apache-2.0
"""What is needed of an engine's cache: a narrow face, which each engine's part has for its own blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["Cache"]

_Given = TypeVar("_Given", contravariant=True)


class Cache(Protocol[_Given]):
    """Blocks are of one size, and are given in the order of the context."""

    @property
    def block_tokens(self) -> int:
        """Tokens in a block."""
        ...

    @property
    def used(self) -> float:
        """The part of it that somebody holds, 0 to 1."""
        ...

    def free_blocks(self) -> int:
        """Return how many could be had at once."""
        ...

    def hold(self, blocks: Sequence[_Given]) -> None:
        """Keep them from being taken, as often as it is called, until they are released as often."""
        ...

    def release(self, blocks: Sequence[_Given]) -> None:
        """Do not hold them any more. If nobody else does, the last one is to be taken first."""
        ...
