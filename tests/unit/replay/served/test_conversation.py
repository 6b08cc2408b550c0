# SPDX-License-Identifier: Apache-2.0
"""What a session says, turn by turn."""

import asyncio
from collections.abc import Sequence

import pytest

from agentcg.replay.served.conversation import Answer, Conversation, Message, NoAnswer
from agentcg.replay.served.lengths import OPENING_WORDS, TurnLength

TURNS = [TurnLength(20, 4, True), TurnLength(5, 3, False), TurnLength(OPENING_WORDS, 2, True)]


def play(*, seed: str = "a", opening: str = "x") -> list[list[Message]]:
    """Return the prompts."""
    prompts: list[list[Message]] = []

    async def ask(messages: Sequence[Message], output_tokens: int, session: str) -> Answer:
        assert (output_tokens, session) == (TURNS[len(prompts)].output_tokens, "u0/s")
        prompts.append(list(messages))
        return Answer(f"answer {len(prompts)}", 1.0, 0.5, None, None, None)

    async def run() -> None:
        conversation = Conversation(ask, "u0/s", TURNS, seed=seed, opening=opening)
        for number in range(3):
            assert (await conversation.take_turn()).text == f"answer {number + 1}"
        assert [answer.text for answer in conversation.answers] == ["answer 1", "answer 2", "answer 3"]

    asyncio.run(run())
    return prompts


def test_each_prompt_goes_on_where_the_last_answer_ended_or_begins_anew() -> None:
    first, second, third = play()
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[:2] == [*first, {"role": "assistant", "content": "answer 1"}]
    assert [len(message["content"].split()) for message in (*first, second[2], *third)] == [20, 5, OPENING_WORDS]


def test_the_same_is_said_to_all_but_for_the_first_words() -> None:
    one, same, other, another = play(), play(), play(opening="y"), play(seed="b")
    assert one == same
    assert one[0][0]["content"].split()[OPENING_WORDS:] == other[0][0]["content"].split()[OPENING_WORDS:]
    assert one[0][0]["content"].split()[:OPENING_WORDS] != other[0][0]["content"].split()[:OPENING_WORDS]
    assert one[1][2] == other[1][2] != another[1][2]


def test_a_turn_without_an_answer_is_none() -> None:
    async def ask(messages: Sequence[Message], output_tokens: int, session: str) -> Answer:
        raise NoAnswer("nobody is there")

    conversation = Conversation(ask, "s", TURNS, seed="", opening="")
    with pytest.raises(NoAnswer):
        asyncio.run(conversation.take_turn())
    assert conversation.answers == []
