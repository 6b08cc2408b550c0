# SPDX-License-Identifier: Apache-2.0
"""What one session and the model say to each other. What the session says is made up; what the model answers is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from agentcg.errors import AgentcgError
from agentcg.replay.served.lengths import OPENING_WORDS, TurnLength

__all__ = ["Answer", "Ask", "Conversation", "Message", "NoAnswer", "say"]

# With the space before it each is one token in the vocabularies of most models.
_WORDS = ("file", "test", "error", "value", "import", "class", "self", "path", "line", "check", "build", "run")

Message: TypeAlias = dict[str, str]
"""A role and content."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One turn, as it was measured. What the server does not say is None."""

    text: str
    sec: float
    """From the request to the end of the answer."""
    first_sec: float | None
    """To its first token."""
    prompt_tokens: int | None
    cached_tokens: int | None
    """Of the prompt, found in the cache."""
    output_tokens: int | None


class NoAnswer(AgentcgError):
    """The server did not answer, or not to the end.

    :param status: of HTTP, if there was one
    """

    def __init__(self, message: str, *, status: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


Ask: TypeAlias = Callable[[Sequence[Message], int, str], Awaitable[Answer]]
"""Asks for so many tokens in the name of a session. Raises NoAnswer."""


def say(draw: Random, words: int) -> str:
    """Return words by chance."""
    return " ".join(draw.choice(_WORDS) for _ in range(words))


class Conversation:
    """A conversation that goes through a session's turns.

    :param name: the session's, as the server is to know it
    :param seed: of all that is said but the first words
    :param opening: of the first words
    """

    def __init__(self, ask: Ask, name: str, turns: Sequence[TurnLength], *, seed: str, opening: str) -> None:
        self._ask, self._name = ask, name
        self._left = list(turns)[::-1]
        self._draw = Random(seed)  # noqa: S311  no secret is made of it
        self._opening = opening
        self._said: list[Message] = []
        self.answers: list[Answer] = []

    async def take_turn(self) -> Answer:
        """Take the next turn, and return its answer. :raises NoAnswer: if there is none"""
        turn = self._left.pop()
        if turn.anew:
            first = say(Random(self._opening), OPENING_WORDS)  # noqa: S311
            self._said = [_message(f"{first} {say(self._draw, turn.words - OPENING_WORDS)}".rstrip())]
        else:
            self._said.append(_message(say(self._draw, turn.words)))
        answer = await self._ask(self._said, turn.output_tokens, self._name)
        self._said.append({"role": "assistant", "content": answer.text})
        self.answers.append(answer)
        return answer


def _message(text: str) -> Message:
    return {"role": "user", "content": text}
