# SPDX-License-Identifier: Apache-2.0
"""OpenHands' event logs of both versions, on two of our own making."""

import json
from pathlib import Path

import pytest

from agentcg.errors import InvalidInput
from agentcg.trace.importer import Source
from agentcg.trace.openhands import IMPORTER

DATA = Path(__file__).parent / "data" / "openhands"
SDK = [json.loads(line) for line in (DATA / "sdk.jsonl").read_text().splitlines()]
TRAJECTORY = json.loads((DATA / "trajectory.json").read_text())


@pytest.fixture
def store_1(tmp_path):
    """Return a conversation as version 1 keeps it."""
    events = tmp_path / "conversations" / "3f1e" / "events"
    events.mkdir(parents=True)
    for number, event in enumerate(SDK):
        (events / f"event-{number:05}-{event['id']}.json").write_text(json.dumps(event))
    (events / ".eventlog.lock").touch()
    (events.parent / "base_state.json").write_text('{"id": "3f1e", "agent": {"llm": {"model": "some/model-o"}}}')
    return events.parent


@pytest.fixture
def store_0(tmp_path):
    """Return a conversation as version 0 keeps it."""
    events, pages = tmp_path / "sessions" / "9a" / "events", tmp_path / "sessions" / "9a" / "event_cache"
    events.mkdir(parents=True)
    pages.mkdir()
    for event in TRAJECTORY:
        (events / f"{event['id']}.json").write_text(json.dumps(event))
    (pages / "0-25.json").write_text(json.dumps(TRAJECTORY))
    return events.parent


def _read(path):
    (recording,) = IMPORTER.read(Source(path, "n"))
    return recording


def test_a_call_of_version_1_lasts_from_its_action_to_its_observation():
    recording = _read(DATA / "sdk.jsonl")
    assert recording.started == 1_772_366_400, "local time of an unknown place, taken as UTC"
    first = recording.calls[0]
    assert (first.id, first.tool, first.command, first.exit_code) == ("call_1", "terminal", "pytest -q", 1)
    assert (first.start_sec, first.end_sec, first.end_estimated) == (2.0, 9.5, False)


def test_of_several_actions_of_one_answer_only_the_first_has_a_known_start():
    calls = {call.id: call for call in _read(DATA / "sdk.jsonl").calls}
    assert (calls["call_2"].end_sec, calls["call_2"].end_estimated) == (15.0, False)
    assert (calls["call_3"].start_sec, calls["call_3"].end_sec, calls["call_3"].end_estimated) == (12.25, 18.0, True)


def test_a_command_that_runs_on_has_no_exit_code():
    call = _read(DATA / "sdk.jsonl").calls[-1]
    assert (call.id, call.exit_code) == ("call_7", None)


def test_what_was_not_run_is_left_out_and_what_is_no_call_too():
    recording = _read(DATA / "sdk.jsonl")
    assert [call.id for call in recording.calls] == ["call_1", "call_2", "call_3", "call_4", "call_7"]
    assert any("left out 1 calls that were rejected" in warning for warning in recording.warnings)


def test_a_store_of_version_1_is_one_source_and_knows_the_model(store_1):
    assert IMPORTER.find(store_1.parent) == IMPORTER.find(store_1) == [store_1]
    assert IMPORTER.find(store_1 / "events") == [store_1 / "events"]
    recording = _read(store_1)
    assert recording.calls == _read(DATA / "sdk.jsonl").calls == _read(store_1 / "events").calls
    assert recording.model == "some/model-o"
    assert _read(store_1 / "events").model is None


def test_a_trajectory_of_version_0():
    recording = _read(DATA / "trajectory.json")
    assert [
        (call.id, call.tool, call.command, call.start_sec, call.end_sec, call.exit_code) for call in recording.calls
    ] == [
        ("toolu_1", "execute_bash", "pytest -q", 5.0, 11.25, 1),
        ("toolu_2", "str_replace_editor", "str_replace /shop/cart.py", 15.0, 15.125, None),
        ("event-10", "run_ipython", "print(1)", 30.0, 30.5, None),
    ]


def test_a_store_of_version_0_is_one_source_without_its_pages(store_0):
    assert IMPORTER.find(store_0.parent) == [store_0]
    assert _read(store_0).calls == _read(DATA / "trajectory.json").calls


def test_other_json_is_not_taken_for_events(tmp_path):
    (tmp_path / "log.json").write_text('[{"timestamp": "2026-03-01T10:00:00", "source": "x", "action": "login"}]')
    assert IMPORTER.find(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "change", "place", "message"),
    [
        (2, {"timestamp": None}, ": timestamp", "got `null`"),
        (2, {"timestamp": "noon"}, ": timestamp", "'noon' is no time"),
        (2, {"action": "run"}, ": action", "got `str`"),
        (3, {"observation": {"exit_code": "one"}}, ": observation.exit_code", "got `str`"),
        (3, {"timestamp": "2026-03-01T12:00:01"}, None, "the call's end is 1.000 s before the call's start"),
    ],
)
def test_what_is_broken_is_named_with_its_file(store_1, number, change, place, message):
    files = sorted((store_1 / "events").glob("*.json"))
    files[number].write_text(json.dumps(SDK[number] | change))
    with pytest.raises(InvalidInput) as caught:
        _read(store_1)
    # The start is what a call is known by: an end before it is told there.
    assert caught.value.place == (f"{files[number]}{place}" if place else str(files[2]))
    assert message in caught.value.detail


def test_a_broken_event_of_a_list_is_named_by_its_number(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([*TRAJECTORY, {"source": "agent"}]))
    with pytest.raises(InvalidInput, match=rf"t\.json: \[{len(TRAJECTORY)}\]: .*missing required field `timestamp`"):
        _read(path)
