# SPDX-License-Identifier: Apache-2.0
"""The importer on an attempt of our own making, and on broken ones."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcg.errors import InvalidInput
from agentcg.trace.agentcgroup import find_attempts, import_attempt
from agentcg.trace.model import Sample

DATA = Path(__file__).parents[2] / "data" / "agentcgroup"
ATTEMPT = DATA / "made_up_set" / "example__task-1" / "attempt_1"


@pytest.fixture
def attempt(tmp_path):
    return Path(shutil.copytree(ATTEMPT, tmp_path / "set" / "task" / "attempt_1"))


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_units_clocks_and_cpu_time():
    recording = import_attempt(ATTEMPT)
    assert recording.started == 1_700_000_000.25
    assert recording.model == "model-b"
    assert recording.name == "made_up_set-example__task-1-attempt_1"
    # 0.25GB is decimal; 0.5001 x 6 s is less than was used before, so it stays; the last reading, 0B, is gone.
    assert recording.samples == (
        Sample(0.0, 12_000_000, 0.0),
        Sample(1.0, 150_500_000, 0.6),
        Sample(2.0, 150_500_000, 0.8),
        Sample(3.0, 250_000_000, 1.65),
        Sample(4.0, 350_500_000, 2.45),
        Sample(5.0, 160_500_000, 3.0),
        Sample(6.0, 160_500_000, 3.0006),
        Sample(7.0, 162_000_000, 3.0006),
    )
    assert any("1, taken when the container had gone" in warning for warning in recording.warnings)


def test_calls_are_ordered_and_on_the_samples_clock():
    calls = import_attempt(ATTEMPT).calls
    assert [(call.id, call.start_sec, call.end_sec) for call in calls] == [
        ("toolu_0", 2.2, 2.22),
        ("toolu_1", 2.25, 4.5),
        ("toolu_2", 5.25, 6.25),
        ("toolu_3", 6.35, 6.65),
        ("toolu_4", 6.65, 7.0),
    ]
    assert [call.command for call in calls] == ["/testbed/a.py", "pytest -q", "look around", "def f", ""]


def test_a_task_is_a_subagent_and_a_missing_end_is_marked():
    recording = import_attempt(ATTEMPT)
    assert [call.kind for call in recording.calls] == ["tool", "tool", "subagent", "tool", "tool"]
    assert [call.end_estimated for call in recording.calls] == [False, False, False, True, True]
    assert any("2 calls have no end" in warning for warning in recording.warnings)


def test_without_start_the_session_begins_before_the_first_answer():
    recording = import_attempt(ATTEMPT, include_start=False)
    assert recording.started == 1_700_000_001.25
    assert recording.samples[0] == Sample(0.0, 150_500_000, 0.0)
    assert recording.samples[-1] == Sample(6.0, 162_000_000, 2.4006)
    assert recording.calls[0].start_sec == 1.2


@pytest.mark.parametrize(
    ("text", "size"),
    [("7B / 1GB", 7), ("1.5kB", 1500), ("2MiB / 1GiB", 2 << 20), ("1GB", 10**9), ("1.5 GiB / 2GiB", 3 << 29)],
)
def test_sizes_of_every_unit(attempt, text, size):
    _edit(attempt / "resources.json", lambda content: content["samples"][1].update(mem_usage=text))
    assert import_attempt(attempt).samples[1].memory_bytes == size


@pytest.mark.parametrize(
    ("file", "change", "place", "message"),
    [
        ("resources.json", lambda c: c["samples"].clear(), ": samples", "there are none"),
        ("resources.json", lambda c: c.clear(), "", "missing required field `samples`"),
        ("resources.json", lambda c: c["samples"][3].pop("epoch"), ": samples[3]", "missing required field `epoch`"),
        ("resources.json", lambda c: c["samples"][3].update(epoch="x"), ": samples[3].epoch", "got `str`"),
        ("resources.json", lambda c: c["samples"][3].update(epoch=1.0), ": samples[3].epoch", "time runs backwards"),
        ("resources.json", lambda c: c["samples"][2].update(mem_usage="-1MB"), ": samples[2].mem_usage", "not a size"),
        ("resources.json", lambda c: c["samples"][2].update(mem_usage="1XB"), ": samples[2].mem_usage", "not a size"),
        (
            "resources.json",
            lambda c: c["samples"][2].update(cpu_percent="--"),
            ": samples[2].cpu_percent",
            "percentage",
        ),
        ("tool_calls.json", lambda c: c.clear(), "", "the recording has no calls"),
        ("tool_calls.json", lambda c: c[1].update(timestamp="now"), ": [1].timestamp", "'now' is no time"),
        (
            "tool_calls.json",
            lambda c: c[0].update(end_timestamp="2023-11-14T22:13:21Z"),
            ": [0]",
            "before the call's start",
        ),
        ("tool_calls.json", lambda c: c[0].update(id="a/b"), ": [0].id", "is not a name"),
        ("tool_calls.json", lambda c: c[0].update(id="toolu_0"), ": call 'toolu_0': id", "an earlier call too"),
        (
            "tool_calls.json",
            lambda c: c[0].update(end_timestamp="9999-01-01T00:00:00Z"),
            ": call 'toolu_1': end_sec",
            "",
        ),
    ],
)
def test_what_is_broken_is_named_with_its_place(attempt, file, change, place, message):
    _edit(attempt / file, change)
    with pytest.raises(InvalidInput) as caught:
        import_attempt(attempt)
    assert caught.value.place == f"{attempt / file}{place}"
    assert message in caught.value.detail


def test_a_cut_or_missing_file_is_named(attempt):
    path = attempt / "resources.json"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InvalidInput, match=r"resources\.json:\d\d: the file is cut off here"):
        import_attempt(attempt)
    path.unlink()
    with pytest.raises(InvalidInput, match=r"resources\.json: cannot be read: No such file"):
        import_attempt(attempt)


def test_without_turns_the_model_is_not_known(attempt):
    (attempt / "turns.json").write_text("[{")
    recording = import_attempt(attempt)
    assert recording.model is None
    assert any("the model is not known" in warning for warning in recording.warnings)
    (attempt / "turns.json").unlink()
    assert import_attempt(attempt).model is None


def test_find_attempts(tmp_path):
    assert find_attempts(DATA) == find_attempts(ATTEMPT) == [ATTEMPT]
    with pytest.raises(InvalidInput, match="no recording of the AgentCgroup layout"):
        find_attempts(tmp_path)


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just([[]])
FIELDS = ("epoch", "mem_usage", "cpu_percent", "timestamp", "end_timestamp", "id", "tool", "input", "first_at", "model")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.sampled_from(["resources.json", "tool_calls.json", "turns.json"]), st.data(), st.sampled_from(FIELDS), values)
def test_mutated_attempts_are_refused_clearly(tmp_path, file, data, field, value):
    attempt = tmp_path / "attempt_1"
    shutil.copytree(ATTEMPT, attempt, dirs_exist_ok=True)
    content = json.loads((attempt / file).read_text())
    rows = content["samples"] if file == "resources.json" else content
    rows[data.draw(st.integers(0, len(rows) - 1))][field] = value
    text = json.dumps(content).encode()
    (attempt / file).write_bytes(text[: data.draw(st.sampled_from([None, len(text) // 2]))])
    for include_start in (True, False):
        try:
            import_attempt(attempt, include_start=include_start)
        except InvalidInput as error:
            assert str(error).startswith(str(attempt))  # noqa: PT017  only some of them raise


def _line(kind, at, *content, **more):
    message = {"model": "model-t", "content": list(content)}
    return json.dumps({"type": kind, "timestamp": f"2023-11-14T22:13:{at}Z", "message": message} | more) + "\n"


@pytest.fixture
def original(attempt):
    """Return an attempt as some sets publish it: ends and commands are in Claude Code's transcript only."""
    (attempt / "turns.json").unlink()
    _edit(
        attempt / "tool_calls.json",
        lambda rows: [row.pop(key, None) for row in rows for key in ("end_timestamp", "input")],
    )
    use = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "pytest -q"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Exit code 4\n", "is_error": True}
    lines = _line("assistant", "22.000", use), _line("user", "24.750", result)
    (attempt / "trace.jsonl").write_text("".join(lines))
    return attempt


def test_ends_and_commands_that_are_missing_come_from_the_transcript(original):
    recording = import_attempt(original)
    call = next(call for call in recording.calls if call.id == "toolu_1")
    assert (call.command, call.end_sec, call.end_estimated, call.exit_code) == ("pytest -q", 4.5, False, 4)
    assert recording.model == "model-t"
    assert [call.command for call in recording.calls if call.id != "toolu_1"] == [""] * 4


def test_without_start_the_first_answer_is_taken_from_the_transcript(original):
    assert import_attempt(original, include_start=False).started == 1_700_000_001.25


def test_a_broken_transcript_is_told_and_not_used(original):
    (original / "trace.jsonl").write_text('{"type": "assistant"')
    recording = import_attempt(original)
    assert recording.model is None
    assert any(
        "trace.jsonl:1: the file is cut off here; the transcript is not used" in note for note in recording.warnings
    )
