# SPDX-License-Identifier: Apache-2.0
"""How much is said in each turn, so that its prompt has the recorded number of tokens, scaled.

A conversation grows by what is said behind what was said before. It begins anew where a recorded prompt is shorter than
the one before: the context was summarised. A message has a word at least: what is scaled down far is longer than it
should be, and the following messages make up for that as far as they can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentcg.errors import InvalidInput
from agentcg.trace.model import RecordedTurn

__all__ = ["OPENING_WORDS", "TokenCount", "TurnLength", "fit", "lengths_of"]

OPENING_WORDS = 8
"""The first words of a conversation: nobody else's begins with them."""
_STEPS = 30


@dataclass(frozen=True, slots=True)
class TokenCount:
    """What a server counts, in tokens."""

    word: float
    """A word of ours."""
    opening: float
    """What the first prompt has besides the words."""
    exchange: float
    """What an answer and the message behind it add besides the answer's tokens and the words."""


@dataclass(frozen=True, slots=True)
class TurnLength:
    """One turn."""

    words: int
    """Of what is said."""
    output_tokens: int
    anew: bool
    """Nothing was said before."""


def lengths_of(turns: Sequence[RecordedTurn], scale: float, count: TokenCount) -> list[TurnLength]:
    """Return the turns of one session, rounded down."""
    found: list[TurnLength] = []
    context, before = 0.0, 0
    for turn in turns:
        anew = not found or turn.prompt_tokens < before
        context = count.opening if anew else context + count.exchange
        words = max(OPENING_WORDS if anew else 1, int((turn.prompt_tokens * scale - context) / count.word))
        output = max(1, int(turn.output_tokens * scale))
        context += words * count.word + output
        before = turn.prompt_tokens
        found.append(TurnLength(words, output, anew))
    return found


def fit(sessions: Sequence[Sequence[RecordedTurn]], context_max: int | None, count: TokenCount) -> float:
    """Return by what recorded tokens are multiplied so that the longest of all contexts has ``context_max``, its answer
    included; by 1 if it has no more.

    :raises InvalidInput: if it would have more in any case
    """

    def longest(scale: float) -> float:
        return max(_context(lengths_of(turns, scale, count), count) for turns in sessions)

    if context_max is None or longest(1.0) <= context_max:
        return 1.0
    if (least := longest(0.0)) > context_max:
        raise InvalidInput(
            "--server-tokens",
            f"{context_max} are too few: with one word in each message it comes to {least:.0f}",
            hint="ask for more, or leave out the session with the most turns",
        )
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if longest(middle) <= context_max else (low, middle)
    return low


def _context(lengths: Sequence[TurnLength], count: TokenCount) -> float:
    longest = context = 0.0
    for turn in lengths:
        context = count.opening if turn.anew else context + count.exchange
        context += turn.words * count.word + turn.output_tokens
        longest = max(longest, context)
    return longest
