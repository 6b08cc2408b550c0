# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry spans, on files of our own making."""

import json
from pathlib import Path

import pytest

from agentcg.errors import InvalidInput
from agentcg.trace.importer import Source
from agentcg.trace.otlp import IMPORTER

DATA = Path(__file__).parent / "data" / "otlp"


def _changed(tmp_path, edit):
    content = json.loads((DATA / "agent.json").read_text())
    edit(content["resourceSpans"][0]["scopeSpans"][0]["spans"])
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    return IMPORTER.read(Source(path, "n"))


def test_each_tool_that_was_executed_is_a_call():
    (recording,) = IMPORTER.read(Source(DATA / "agent.json", "n"))
    assert recording.started == 1_772_359_200
    assert recording.model == "model-q"
    assert [(call.id, call.tool, call.command, call.start_sec, call.end_sec) for call in recording.calls] == [
        ("call_1", "shell", "pytest -q", 5.0, 11.25),
        ("call_1-2", "fetch", '{"page":2,"names":["a","b"]}', 5.5, 6.0),
        ("call_3", "helper", "look at rounding", 20.0, 30.0),
        ("call_4", "shell", "grep -rn round src", 22.0, 23.5),
    ]
    assert [call.exit_code for call in recording.calls] == [None, None, None, 1]


def test_a_call_under_which_another_agent_runs_is_a_sub_agent():
    (recording,) = IMPORTER.read(Source(DATA / "agent.json", "n"))
    assert [call.id for call in recording.calls if call.kind == "subagent"] == ["call_3"]


def test_a_conversation_of_several_traces_is_one_session_and_a_repeated_span_counts_once():
    first, second = IMPORTER.read(Source(DATA / "collector.jsonl", "n"))
    assert (first.name, len(first.calls)) == ("n-conv_1", 5)
    assert (second.name, len(second.calls)) == (f"n-{'c' * 32}", 1)
    assert first.calls[-1].tool == "shell", "the name of the span says it, too"


def test_a_span_without_an_end_is_marked():
    _, second = IMPORTER.read(Source(DATA / "collector.jsonl", "n"))
    assert [(call.end_sec, call.end_estimated) for call in second.calls] == [(3.0, True)]


def test_numbers_may_be_numbers_and_ids_any_text(tmp_path):
    def as_protobuf_does(spans):
        for span in spans:
            span["startTimeUnixNano"] = int(span["startTimeUnixNano"])
            span["traceId"] += "=="
            span["kind"] = "SPAN_KIND_INTERNAL"

    (recording,) = _changed(tmp_path, as_protobuf_does)
    assert recording.calls == IMPORTER.read(Source(DATA / "agent.json", "n"))[0].calls


def test_one_line_and_many_lines_are_read_whatever_the_file_is_called(tmp_path):
    for name, text in (
        ("lines.json", (DATA / "collector.jsonl").read_text()),
        ("one.jsonl", (DATA / "agent.json").read_text()),
    ):
        (tmp_path / name).write_text(text)
        assert IMPORTER.read(Source(tmp_path / name, "n"))


def test_spans_that_name_each_other_as_parents_are_read(tmp_path):
    def ring(spans):
        spans[0]["parentSpanId"] = spans[2]["spanId"]

    assert len(_changed(tmp_path, ring)[0].calls) == 4


@pytest.mark.parametrize(
    ("edit", "place", "message"),
    [
        (lambda spans: spans[2].pop("spanId"), ".scopeSpans[0].spans[2]", "missing required field `spanId`"),
        (
            lambda spans: spans[2].update(startTimeUnixNano="x"),
            ".scopeSpans[0].spans[2].startTimeUnixNano",
            "no number",
        ),
        (lambda spans: spans[2].update(startTimeUnixNano=-1), ".scopeSpans[0].spans[2].startTimeUnixNano", "no time"),
        (lambda spans: spans[2].update(endTimeUnixNano="5"), ".scopeSpans[0].spans[2]", "before the call's start"),
        (lambda spans: spans[2]["attributes"].append({"key": 1}), ".scopeSpans[0].spans[2].attributes[5].key", "`int`"),
    ],
)
def test_what_is_broken_is_named_with_its_place(tmp_path, edit, place, message):
    with pytest.raises(InvalidInput) as caught:
        _changed(tmp_path, edit)
    assert caught.value.place == f"{tmp_path / 'changed.json'}:1: resourceSpans[0]{place}"
    assert message in caught.value.detail


def test_a_file_without_calls_and_a_cut_one_are_named(tmp_path):
    with pytest.raises(InvalidInput, match="there is no execute_tool span"):
        _changed(tmp_path, lambda spans: spans.__delitem__(slice(2, None)))
    (tmp_path / "cut.jsonl").write_text((DATA / "collector.jsonl").read_text()[:-50])
    with pytest.raises(InvalidInput, match=r"cut\.jsonl:5: the file is cut off here"):
        IMPORTER.read(Source(tmp_path / "cut.jsonl", "n"))
    (tmp_path / "cut.json").write_text((DATA / "agent.json").read_text()[:900])
    with pytest.raises(InvalidInput, match=r"cut\.json:\d+: the file is cut off here"):
        IMPORTER.read(Source(tmp_path / "cut.json", "n"))
