# SPDX-License-Identifier: Apache-2.0
"""Recordings for other programs, and back."""

import csv
import dataclasses
import io
import json

import pytest

from agentcg.errors import InvalidInput
from agentcg.trace.demand import demand
from agentcg.trace.export import COLUMNS, CsvWriter, OtlpWriter
from agentcg.trace.importer import Source
from agentcg.trace.model import RecordedCall, Recording, Sample
from agentcg.trace.otlp import IMPORTER

RECORDING = Recording(
    "shop",
    started=1_772_359_200.125,
    calls=(
        RecordedCall("a", "Bash", "printf 'é\n,\"'", 0.0, 0.000001, exit_code=0),
        RecordedCall("b", "Task", "look", 1.0, 3.654321, kind="subagent"),
        RecordedCall("c", "Read", "", 2.0, 4.0, end_estimated=True, call_class="search"),
    ),
    samples=(Sample(0.5, 100, 0.25), Sample(5.0, 300, 1.25)),
    model="some-model",
)


def _rows(*recordings):
    file = io.StringIO(newline="")
    writer = CsvWriter(file)
    for recording in recordings:
        writer.add(recording)
    header, *rows = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert header == list(COLUMNS)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _back(tmp_path, *recordings):
    with open(tmp_path / "spans.jsonl", "w") as file:
        writer = OtlpWriter(file)
        for recording in recordings:
            writer.add(recording)
    return IMPORTER.read(Source(tmp_path / "spans.jsonl", "back"))


def test_a_table_has_a_line_for_each_call():
    first, second, third = _rows(RECORDING)
    assert (first["recording"], first["started"]) == ("shop", "2026-03-01T10:00:00.125000+00:00")
    assert first["command"] == "printf 'é\n,\"'"
    assert (first["exit_code"], second["exit_code"]) == ("0", "")
    assert (second["kind"], second["start_sec"], second["duration_sec"]) == ("subagent", "1.0", "2.654321")
    assert (third["end_estimated"], third["call_class"]) == ("1", "search")


def test_a_table_says_what_each_call_held_where_there_are_samples():
    rows = {row["id"]: row for row in _rows(RECORDING)}
    for needs in demand(RECORDING).calls:
        assert float(rows[needs.call.id]["memory_bytes"]) == round(needs.memory.peak)
        assert float(rows[needs.call.id]["cpu_sec"]) == pytest.approx(needs.cpu.points[-1][1], abs=1e-6)
    assert rows["c"]["memory_bytes"] == "200"
    assert (rows["b"]["memory_bytes"], rows["b"]["cpu_sec"]) == ("", "")


def test_a_table_leaves_out_what_is_not_known():
    (row,) = _rows(Recording("n", None, (RecordedCall("a", "bash", "ls", 3.0, 4.5),), timing="durations"))
    assert (row["started"], row["start_sec"], row["end_sec"], row["duration_sec"]) == ("", "", "", "1.5")
    assert (row["memory_bytes"], row["cpu_sec"]) == ("", "")


def test_spans_come_back_as_the_same_calls(tmp_path):
    (back,) = _back(tmp_path, RECORDING)
    assert back.started == RECORDING.started
    assert back.model == RECORDING.model
    assert back.calls == tuple(dataclasses.replace(call, call_class="") for call in RECORDING.calls)


def test_each_recording_is_a_trace_and_a_conversation(tmp_path):
    first, second = _back(tmp_path, RECORDING, dataclasses.replace(RECORDING, name="other"))
    assert [first.name, second.name] == ["back-shop", "back-other"]
    lines = [json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()]
    spans = [span for line in lines for span in line["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    assert len({span["traceId"] for span in spans}) == 2
    assert len({span["spanId"] for span in spans}) == len(spans) == 10
    assert all(len(span["traceId"]) == 32 and len(span["spanId"]) == 16 for span in spans)


def test_a_recording_without_times_cannot_be_spans_and_leaves_nothing_behind():
    file = io.StringIO()
    for changes in ({"started": None}, {"timing": "durations", "samples": ()}):
        with pytest.raises(InvalidInput, match="shop: a span has a date and a time"):
            OtlpWriter(file).add(dataclasses.replace(RECORDING, **changes))
    assert file.getvalue() == ""
