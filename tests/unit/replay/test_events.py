# SPDX-License-Identifier: Apache-2.0
"""Events as lines, there and back."""

import json

import pytest

from agentcg.errors import InvalidInput
from agentcg.replay import events

LINES = [
    (events.SessionBegan(0.0, "a"), {"t": 0.0, "kind": "session_began", "session": "a"}),
    (
        events.SessionEnded(1.5, "a", "died", "why"),
        {"t": 1.5, "kind": "session_ended", "session": "a", "state": "died", "reason": "why"},
    ),
    (
        events.CallBegan(1.0, "a", "c1", "Bash", "ls"),
        {"t": 1.0, "kind": "call_began", "session": "a", "call": "c1", "tool": "Bash", "command": "ls"},
    ),
    (
        events.CallEnded(1.0, "a", "c1", "ok", "", 5),
        {"t": 1.0, "kind": "call_ended", "session": "a", "call": "c1", "outcome": "ok", "advice": "", "peakBytes": 5}
        | {"cpuSec": None, "frozenSec": None},
    ),
    (events.Held(1.0, "a", "c1", "x"), {"t": 1.0, "kind": "held", "session": "a", "call": "c1", "why": "x"}),
    (events.Frozen(1.0, "a"), {"t": 1.0, "kind": "frozen", "session": "a", "call": None, "why": ""}),
    (events.Thawed(1.0, "a"), {"t": 1.0, "kind": "thawed", "session": "a", "call": None, "why": ""}),
    (events.Throttled(1.0, "a"), {"t": 1.0, "kind": "throttled", "session": "a", "call": None, "why": ""}),
    (events.Killed(1.0, "a"), {"t": 1.0, "kind": "killed", "session": "a", "call": None, "why": ""}),
    (events.Yielded(1.0, "a"), {"t": 1.0, "kind": "yielded", "session": "a", "call": None, "why": ""}),
    (
        events.Sample(1.0, {"a": 1}, {"a": 0.5}, 2),
        {"t": 1.0, "kind": "sample", "memory": {"a": 1}, "cpu": {"a": 0.5}, "total": 2},
    ),
    (
        events.Limits(1.0, None, {"a": 1}, {"a": None}, 0),
        {"t": 1.0, "kind": "limits", "wall": None, "high": {"a": 1}, "max": {"a": None}, "reserved": 0},
    ),
    (
        events.Turn(2.0, "a", 1.5, 0.5, 100, None, 4),
        {"t": 2.0, "kind": "turn", "session": "a", "sec": 1.5, "firstSec": 0.5, "promptTokens": 100}
        | {"cachedTokens": None, "outputTokens": 4},
    ),
    (
        events.Kv(1.0, "a", 2, 3, "pinned"),
        {"t": 1.0, "kind": "kv", "session": "a", "blocks": 2, "bytes": 3, "state": "pinned"},
    ),
]


@pytest.mark.parametrize(("event", "line"), LINES, ids=[line["kind"] for _, line in LINES])
def test_an_event_is_a_line(event, line):
    text = events.encode(event)
    assert text.endswith(b"\n")
    assert json.loads(text) == line
    assert events.decode("f:1", text) == event


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"t": 1, "kind": "held", "session": 3}', r"f:7: session: Expected `str`, got `int`"),
        (b'{"t": 1, "kind": "went", "session": "a"}', r"f:7: kind: Invalid value 'went'"),
        (b'{"t": 1, "kind": "held", "session": "a", "x": 1}', r"f:7: .*unknown field `x`"),
        (b'{"t": 1', r"f:7: not JSON"),
    ],
)
def test_a_wrong_line_is_refused_by_its_place(text, said):
    with pytest.raises(InvalidInput, match=said):
        events.decode("f:7", text)
