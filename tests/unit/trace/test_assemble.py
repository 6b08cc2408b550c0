# SPDX-License-Identifier: Apache-2.0
"""From found calls to a recording."""

import pytest

from agentcg.errors import InvalidInput
from agentcg.model import validate_name
from agentcg.trace.assemble import FoundCall, Ids, assemble
from agentcg.trace.model import RecordedCall, Sample


def found(name, start, end=None, **more):
    return FoundCall(f"f:{name}", name, "Bash", "true", start, end, **more)


def test_times_are_the_sessions_and_calls_are_in_the_order_they_began():
    recording = assemble(
        "f", "n", [found("b", 105.5, 106), found("a", 103, 104)], began=100, samples=[Sample(101, 5, 0.0)], source="s"
    )
    assert recording.started == 100
    assert recording.calls == (
        RecordedCall("a", "Bash", "true", 3, 4),
        RecordedCall("b", "Bash", "true", 5.5, 6),
    )
    assert recording.samples == (Sample(1, 5, 0.0),)
    assert recording.warnings == ()


def test_the_session_begins_with_its_first_call_at_the_latest():
    assert assemble("f", "n", [found("a", 90, 91)], began=100, source="s").started == 90
    assert assemble("f", "n", [found("a", 90, 91)], source="s").started == 90


def test_a_call_without_an_end_lasts_to_the_next_or_to_the_sessions_end_and_is_marked():
    calls = [found("a", 1), found("b", 1), found("c", 2, 2.5), found("d", 3), found("e", 4, 5)]
    recording = assemble("f", "n", calls, ended=9, source="s")
    assert [(call.id, call.end_sec, call.end_estimated) for call in recording.calls] == [
        ("a", 1, True),
        ("b", 1, True),
        ("c", 1.5, False),
        ("d", 3, True),
        ("e", 4, False),
    ]
    assert recording.warnings == ("f: 3 calls have no end; each is taken to last until the next begins",)
    assert assemble("f", "n", [found("a", 1)], ended=9, source="s").calls[0].end_sec == 8


def test_a_call_after_which_nothing_is_known_is_left_out_rather_than_given_no_time():
    recording = assemble("f", "n", [found("a", 1, 2), found("b", 3)], source="s")
    assert [call.id for call in recording.calls] == ["a"]
    assert recording.warnings[-1] == "f: left out 1 calls without an end, after which nothing more is recorded"


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([found("a", 2, 1.5)], "f:a: the call's end is 0.500 s before the call's start"),
        ([found("a", 1, 2), found("a", 2, 3)], "f: call 'a': id: 'a' is the id of an earlier call too"),
        ([found("a", 1, 4e7)], "f: call 'a': end_sec: .* is above"),
        ([], "f: the recording has no calls"),
        ([found("a", -5, -4)], "f: started: -5 is negative"),
    ],
)
def test_what_no_recording_can_hold_is_refused(calls, message):
    with pytest.raises(InvalidInput, match=message):
        assemble("f", "n", calls, source="s")


def test_ids_are_made_of_any_text_and_each_once():
    ids = Ids()
    names = [ids.take(text) for text in ("toolu_1", "toolu_1", "functions.bash:0", "--", "", "x" * 90, "x" * 91)]
    assert names[:5] == ["toolu_1", "toolu_1-2", "functions_bash_0", "call", "call-2"]
    assert len(set(names)) == len(names)
    assert all(validate_name("id", name) for name in names)
