# SPDX-License-Identifier: Apache-2.0
"""One request that has a slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Outcome", "Turn"]


class Outcome(NamedTuple):
    """What came of a turn, as far as the server said so."""

    tokens: int | None
    """Prompt and answer."""
    tool: str = ""
    """What the answer calls."""
    cached: int | None = None
    """Tokens of the prompt that were found in the slot."""
    computed: tuple[int, float] | None = None
    """Tokens of it that were computed, and in how many seconds."""


class Turn:
    """A request, from when it has a slot. Of ``end`` and ``cancel`` the first counts, and the rest does nothing."""

    def __init__(
        self, slot: int, expected: int, ended: Callable[[Outcome], None], cancelled: Callable[[], None]
    ) -> None:
        self.slot = slot
        self.expected = expected
        """Tokens of its context that its slot is believed to hold already."""
        self._ended, self._cancelled = ended, cancelled

    def end(self, outcome: Outcome) -> None:
        """It is over."""
        self._ended(outcome)

    def cancel(self) -> None:
        """It was given up, or failed."""
        self._cancelled()
