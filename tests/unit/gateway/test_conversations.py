# SPDX-License-Identifier: Apache-2.0
"""Whose request it is."""

from collections.abc import Sequence

from agentcg.gateway import conversations as module
from agentcg.gateway.conversations import Conversation, Conversations

SYSTEM = ["tools", "system"]


class Agents:
    """Clients that ask, each with a prompt that is a list of words. The first two are tools and system message."""

    def __init__(self) -> None:
        self.conversations = Conversations()

    def begin(self, *words: str, session: str | None = None, key: str = "", preamble: int = 2) -> Conversation:
        return self.conversations.find(session, key, [word.encode() for word in words], preamble)

    def turn(self, *words: str, session: str | None = None, key: str = "", preamble: int = 2) -> tuple[str, int]:
        found = self.begin(*words, session=session, key=key, preamble=preamble)
        assert found.running
        found.running = False
        return found.session, found.branch


def grown(words: Sequence[str], turns: int) -> list[str]:
    return [*words, *(f"{role} {number}" for number in range(turns) for role in ("assistant", "tool"))]


def test_a_prompt_that_goes_on_is_the_same_session() -> None:
    agents = Agents()
    names = {agents.turn(*grown([*SYSTEM, "fix it"], turns)) for turns in range(4)}
    assert names == {("unnamed-1", 0)}


def test_sessions_that_share_tools_and_system_message_are_two() -> None:
    agents = Agents()
    for turns in range(4):
        assert agents.turn(*grown([*SYSTEM, "fix this"], turns)) == ("unnamed-1", 0)
        assert agents.turn(*grown([*SYSTEM, "fix that"], turns)) == ("unnamed-2", 0)


def test_twins_part_where_their_answers_differ() -> None:
    agents = Agents()
    first, second = agents.begin(*SYSTEM, "fix it"), agents.begin(*SYSTEM, "fix it")
    assert first is not second
    first.running = second.running = False
    names = {agents.turn(*SYSTEM, "fix it", answer, "tool") for answer in ("one way", "another")}
    assert len(names) == 2
    for answer in ("one way", "another"):
        assert agents.turn(*SYSTEM, "fix it", answer, "tool", "more") in names


def test_who_has_another_key_is_another() -> None:
    agents = Agents()
    assert agents.turn(*SYSTEM, "fix it", key="a") != agents.turn(*SYSTEM, "fix it", key="b")


def test_a_last_message_that_was_changed_is_the_same_session() -> None:
    agents = Agents()
    words = grown([*SYSTEM, "fix it"], 4)
    name = agents.turn(*words, "a reminder of the time")
    assert agents.turn(*words, "the tool's answer", "more") == name


def test_who_begins_as_another_began_is_not_that_one_gone_back() -> None:
    agents = Agents()
    words = grown([*SYSTEM, "fix it"], 3)
    name = agents.turn(*words)
    assert agents.turn(*words[:3]) != name
    assert agents.turn(*words, "more") == name
    agents.turn(*words, session="u0/a")
    assert agents.turn(*words[:3], session="u0/a") == ("u0/a", 0)  # A name is believed.


def test_a_name_is_a_name() -> None:
    agents = Agents()
    assert agents.turn(*SYSTEM, "fix it", session="u0/a") == ("u0/a", 0)
    assert agents.turn(*SYSTEM, "fix it", session="u0/b") == ("u0/b", 0)
    assert agents.turn(*SYSTEM, "fix it", "more", session="u0/a", key="another") == ("u0/a", 0)


def test_a_named_session_whose_context_was_compacted_goes_on() -> None:
    agents = Agents()
    agents.turn(*grown([*SYSTEM, "fix it"], 5), session="u0/a")
    assert agents.turn(*SYSTEM, "a summary", session="u0/a") == ("u0/a", 0)
    assert agents.turn(*SYSTEM, "a summary", "more", session="u0/a") == ("u0/a", 0)


def test_an_agent_that_a_named_session_sends_out_is_a_branch_of_it() -> None:
    agents = Agents()
    words = grown([*SYSTEM, "fix it"], 2)
    agents.turn(*words, session="u0/a")
    for turns in range(3):
        assert agents.turn(*grown(["tools", "you search", "find it"], turns), session="u0/a") == ("u0/a", 1)
    assert agents.turn(*words, "found", session="u0/a") == ("u0/a", 0)


def test_turns_side_by_side_are_branches() -> None:
    agents = Agents()
    first = agents.begin(*SYSTEM, "fix it", session="u0/a")
    second = agents.begin(*SYSTEM, "fix it", session="u0/a")
    assert (first.branch, second.branch) == (0, 1)


def test_a_prompt_of_one_string_goes_on_only_as_a_whole() -> None:
    agents = Agents()
    shared = ["x"] * 20
    first = agents.turn(*shared, "mine", preamble=21)
    assert agents.turn(*shared, "yours", preamble=21) != first
    assert agents.turn(*shared, "mine", "and more", preamble=22) == first


def test_no_more_are_remembered_than_allowed(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "_CONVERSATIONS", 10)
    monkeypatch.setattr(module, "_PIECES", 5)
    agents = Agents()
    for number in range(30):
        agents.turn(*grown([*SYSTEM, f"fix {number}"], 5), session=f"u0/s{number % 15}")
    kept = agents.conversations
    assert len(kept._used) == 10
    assert len(kept._index) <= 50
    assert len(kept._latest) <= 10
    assert agents.turn(*grown([*SYSTEM, "fix 29"], 6), session="u0/s14") == ("u0/s14", 0)


def test_odd_prompts_are_somebodys() -> None:
    agents = Agents()
    assert agents.turn("", preamble=0) == ("unnamed-1", 0)
    assert agents.turn("", "", preamble=1) == ("unnamed-1", 0)
    assert agents.turn("a", session="u0/a", key="\udcff", preamble=1) == ("u0/a", 0)
    assert agents.turn("b", key="\udcff", preamble=1)[0].startswith("unnamed-")
