# SPDX-License-Identifier: Apache-2.0
"""How much is said in each turn."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.errors import InvalidInput
from agentcg.replay.served.lengths import OPENING_WORDS, TokenCount, TurnLength, fit, lengths_of
from agentcg.trace.model import RecordedTurn

COUNT = TokenCount(word=1.0, opening=10.0, exchange=5.0)


def turns(*counts: tuple[int, int]) -> list[RecordedTurn]:
    return [RecordedTurn(at, at + 1, prompt, output) for at, (prompt, output) in enumerate(counts)]


def test_a_prompt_is_what_was_said_and_answered_before_and_a_new_message() -> None:
    found = lengths_of(turns((100, 10), (150, 20)), 1.0, COUNT)
    assert found == [TurnLength(90, 10, True), TurnLength(150 - 110 - 5, 20, False)]


def test_everything_is_scaled_alike() -> None:
    found = lengths_of(turns((1000, 100), (2000, 50)), 0.1, COUNT)
    assert found == [TurnLength(90, 10, True), TurnLength(200 - 110 - 5, 5, False)]


def test_a_word_may_be_several_tokens() -> None:
    assert lengths_of(turns((100, 1)), 1.0, TokenCount(5.0, 10.0, 0.0)) == [TurnLength(18, 1, True)]


def test_a_shorter_prompt_begins_anew() -> None:
    assert [turn.anew for turn in lengths_of(turns((100, 1), (99, 1), (120, 1)), 1.0, COUNT)] == [True, True, False]


def test_the_longest_context_is_as_long_as_was_asked_for() -> None:
    sessions = [turns((900, 100), (2000, 50)), turns((500, 10), (400, 10))]
    assert fit(sessions, None, COUNT) == fit(sessions, 2050, COUNT) == 1.0
    assert fit(sessions, 1025, COUNT) == pytest.approx(0.5, rel=0.01)
    # A turn adds seven tokens at least, of which only half of one was recorded: that is taken off all.
    assert fit([turns((1000, 1), (1001, 1), (1002, 1))], 501, COUNT) == pytest.approx(487 / 1000, rel=0.01)
    with pytest.raises(InvalidInput, match=r"--server-tokens: 30 are too few: with one word in each message .* to 33"):
        fit([turns((1000, 1), (1001, 1), (1002, 1))], 30, COUNT)


def test_what_is_too_long_is_made_up_for_later() -> None:
    found = lengths_of(turns((100, 30), (110, 1), (300, 1)), 1.0, COUNT)
    assert [turn.words for turn in found] == [90, 1, 300 - (100 + 30 + 5 + 1 + 1) - 5]


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**5)), min_size=1, max_size=40),
    st.floats(1e-4, 1.0),
    st.builds(TokenCount, st.floats(0.5, 6), st.floats(0, 40), st.floats(0, 12)),
)
def test_nothing_is_longer_than_recorded_unless_it_would_be_nothing(
    counts: list[tuple[int, int]], scale: float, count: TokenCount
) -> None:
    found = lengths_of(turns(*counts), scale, count)
    assert len(found) == len(counts)
    assert all(turn.words >= (OPENING_WORDS if turn.anew else 1) and turn.output_tokens >= 1 for turn in found)
    assert found[0].anew
    for ((before, _), (after, _)), turn in zip(pairwise(counts), found[1:], strict=True):
        assert turn.anew == (after < before)
    context = 0.0
    for (prompt, _), turn in zip(counts, found, strict=True):
        context = (count.opening if turn.anew else context + count.exchange) + turn.words * count.word
        assert turn.words <= OPENING_WORDS or context <= prompt * scale + 1e-6
        context += turn.output_tokens
