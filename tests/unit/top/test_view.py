# SPDX-License-Identifier: Apache-2.0
"""Keys, and what they do to the view."""

from dataclasses import replace

import pytest

from agentcg.top.rows import BY_HAND, Row
from agentcg.top.view import Amend, Freeze, Keys, Kill, Quit, Thaw, View

ROWS = [Row("tenant", "u", ""), Row("session", "u/a", ""), Row("call", "u/a/x", ""), Row("call", "u/a/y", "")]


def press(view: View, *keys: str):  # type: ignore[no-untyped-def]
    wishes = [view.press(key, ROWS) for key in keys]
    return wishes[-1]


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"mq", ["m", "q"]),
        (b"\x1b[A\x1bOB", ["up", "down"]),
        (b"\x1b[5~x\x1b[6~", ["page up", "x", "page down"]),
        (b"\r\n\x7f", ["enter", "enter", "backspace"]),
        (b"\x1b[1;5C\x1b[3~", []),
        ("ü€".encode(), ["ü", "€"]),
        (b"\xff\x00\x01", []),
    ],
)
def test_keys(data: bytes, keys: list[str]) -> None:
    assert Keys().feed(data) == keys
    pieces = Keys()
    assert [key for byte in data for key in pieces.feed(bytes([byte]))] == keys
    assert not pieces.waiting


def test_an_escape_alone_is_the_escape_key() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.waiting
    assert keys.flush() == ["escape"]
    assert not keys.waiting


def test_the_selection_stays_in_the_list() -> None:
    view = View()
    assert (view.see(ROWS), view.selected) == (0, "u")
    press(view, "down", "down")
    assert view.selected == "u/a/x"
    press(view, "page down", "down")
    assert view.selected == "u/a/y"
    press(view, "page up", "up")
    assert view.selected == "u"


def test_the_selection_follows_its_row_and_stays_in_its_place_when_that_is_gone() -> None:
    view = View(selected="u/a/x")
    assert view.see(list(reversed(ROWS))) == 1
    assert view.see([row for row in ROWS if row.name != "u/a/x"]) == 1
    assert view.selected == "u/a"
    assert (view.see([]), view.selected) == (0, "")


@pytest.mark.parametrize(("key", "sort"), [("m", "memory"), ("c", "cpu"), ("t", "time")])
def test_sort(key: str, sort: str) -> None:
    view = View(sort="cpu" if key == "m" else "memory")
    assert press(view, key) is None
    assert view.sort == sort


def test_filter_is_in_force_while_it_is_typed() -> None:
    view = View()
    press(view, "/", "q", "k")
    assert (view.wanted, view.asking) == ("qk", "filter")
    press(view, "backspace", "enter")
    assert (view.wanted, view.asking) == ("q", "")
    press(view, "/", "x", "escape")
    assert (view.wanted, view.asking) == ("", "")


def test_kill_asks_first() -> None:
    view = View(selected="u/a/x")
    assert press(view, "k") is None
    assert view.asking == "kill"
    assert press(view, "n") is None
    assert view.asking == ""
    assert press(view, "k", "y") == Kill("u/a/x")
    assert press(view, "y") is None


@pytest.mark.parametrize(("key", "answer"), [("k", ["y"]), ("a", ["m", "enter"])])
def test_another_call_in_the_place_of_the_one_that_was_asked_about_is_left_alone(key: str, answer: list[str]) -> None:
    view = View()
    view.see(ROWS)
    press(view, "down", "down", key)
    view.see([row for row in ROWS if row.name != "u/a/x"])
    assert view.selected == "u/a/y"
    assert press(view, *answer).call == "u/a/x"


def test_amend_asks_for_a_hint() -> None:
    view = View(selected="u/a/x")
    assert press(view, "a", *"memory:2g", "enter") == Amend("u/a/x", "memory:2g")
    assert press(view, "a", *"memory:2g", "escape") is None
    assert press(view, "a", "enter") is None
    assert view.asking == ""


@pytest.mark.parametrize("key", ["k", "a"])
def test_only_calls_are_killed_or_amended(key: str) -> None:
    view = View(selected="u/a")
    press(view, key)
    assert view.asking == ""
    assert view.message.startswith("select a call to ")


@pytest.mark.parametrize("name", ["u/a", "u/a/x"])
def test_calls_and_sessions_are_frozen_and_what_is_frozen_by_hand_is_thawed(name: str) -> None:
    view = View(selected=name)
    assert press(view, "f") == Freeze(name)
    rows = [replace(row, state=BY_HAND) if row.name == name else row for row in ROWS]
    assert view.press("f", rows) == Thaw(name)


@pytest.mark.parametrize("name", ["u", "", "u/gone"])
def test_nothing_else_is_frozen(name: str) -> None:
    view = View(selected=name)
    assert press(view, "f") is None
    assert view.message == "select a call or a session to freeze or thaw it"


def test_quit() -> None:
    assert press(View(), "q") == Quit()
