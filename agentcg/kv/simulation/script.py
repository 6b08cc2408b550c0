# SPDX-License-Identifier: Apache-2.0
"""What a session does, whoever serves it: turns of the language model, and tool calls between them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from agentcg.errors import InvalidInput

__all__ = ["Arrival", "Script", "ToolCall", "Turn", "arrivals"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a turn makes. All calls of a turn begin when it ends."""

    tool: str
    wall_sec: float
    """How long it takes when it gets all the CPU it can use."""
    cpu_sec: float = 0.0
    """CPU time that it needs, evenly over that."""
    words: str = ""
    """What the command does, as :func:`agentcg.policy.match.command_key` has it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request to the model. The next one comes when all calls are over; a turn without calls goes on at once."""

    prompt_tokens: int
    """The whole context that is sent."""
    output_tokens: int
    prefix_tokens: int = 0
    """How many of the prompt's tokens are the beginning of the context that the last turn left behind."""
    calls: tuple[ToolCall, ...] = ()

    @property
    def computed_tokens(self) -> int:
        """What an engine has computed at its end: the answer's last token is not, until something follows it."""
        return self.prompt_tokens + self.output_tokens - 1


@dataclass(frozen=True, slots=True)
class Script:
    """One session.

    :raises InvalidInput: for turns that cannot be
    """

    name: str
    turns: tuple[Turn, ...]
    weight: float = 1.0
    """Its calls' weight when CPUs are divided."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise InvalidInput(self.name, "the session has no turns")
        left_behind = 0
        for number, turn in enumerate(self.turns):
            place = f"{self.name}: turns[{number}]"
            if turn.prompt_tokens < 1 or turn.output_tokens < 1:
                raise InvalidInput(place, "a turn has a token of prompt and one of output at least")
            if not 0 <= turn.prefix_tokens <= min(left_behind, turn.prompt_tokens):
                raise InvalidInput(f"{place}.prefix_tokens", "it is not in the last context and in this prompt")
            left_behind = turn.prompt_tokens + turn.output_tokens

    @property
    def context_tokens(self) -> int:
        """The longest that its context becomes."""
        return max(turn.prompt_tokens + turn.output_tokens for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A session that begins at a time."""

    at_sec: float
    session: str
    script: Script


def arrivals(scripts: Sequence[Script], count: int, per_sec: float, seed: int) -> list[Arrival]:
    """Return ``count`` sessions that come at random (Poisson), ``per_sec`` in the mean; at once if that is infinite.

    Every script comes once before one comes again. The same seed gives the same sessions at any rate, and their times
    are the same but for the scale.
    """
    draw = random.Random(seed)  # noqa: S311
    drawn = list(islice(_shuffled(scripts, draw), count))
    now, found = 0.0, []
    for number, script in enumerate(drawn):
        now += draw.expovariate(1.0) / per_sec
        found.append(Arrival(now, f"{number}-{script.name}", script))
    return found


def _shuffled(scripts: Sequence[Script], draw: random.Random) -> Iterator[Script]:
    while True:
        yield from draw.sample(scripts, len(scripts))
