# SPDX-License-Identifier: Apache-2.0
"""The runs that an eBPF tracer sampled, on one of our own making."""

import json
import shutil
from pathlib import Path

import pytest

from agentcg.errors import InvalidInput
from agentcg.trace.agentcgroup_ebpf import IMPORTER
from agentcg.trace.importer import Source
from agentcg.trace.model import RecordedCall, Sample

RUN = Path(__file__).parent / "data" / "agentcgroup_ebpf" / "runs" / "study_shop"


def _read(path):
    (recording,) = IMPORTER.read(Source(path, "n"))
    return recording


def test_memory_is_of_resident_sets_and_cpu_time_never_falls():
    recording = _read(RUN)
    assert recording.started == 1_772_359_200.1
    # Process 12 ends after 0.3 s with 30 ms, and another gets its number: its 10 ms come on top.
    assert recording.samples == (
        Sample(0.0, 1000 << 10, 0.01),
        Sample(0.1, 201_000 << 10, 0.1),
        Sample(0.2, 351_000 << 10, 0.19),
        Sample(0.3, 301_000 << 10, 0.22),
        Sample(0.4, 331_000 << 10, 0.23),
    )
    assert any("left out at the end: 2" in warning for warning in recording.warnings)


def test_calls_are_on_the_samples_clock():
    assert _read(RUN).calls == (RecordedCall("toolu_E1", "Bash", "pytest -q", 0.15, 0.26),)


def test_without_start_the_session_begins_before_the_first_call():
    (recording,) = IMPORTER.read(Source(RUN, "n", include_start=False))
    assert recording.started == 1_772_359_200.2
    assert recording.samples[0] == Sample(0.0, 201_000 << 10, 0.0)
    assert recording.calls[0].start_sec == 0.05


def test_only_runs_with_samples_are_found(tmp_path):
    assert IMPORTER.find(RUN.parents[1]) == [RUN]
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    events = [line for line in (run / "ebpf_trace.jsonl").read_text().splitlines() if "RESOURCE" not in line]
    (run / "ebpf_trace.jsonl").write_text("\n".join(events))
    assert IMPORTER.find(tmp_path) == []


@pytest.mark.parametrize(
    ("keep", "place", "message"),
    [
        (lambda event: event["event"] != "CLOCK_SYNC", ":3", "comes before CLOCK_SYNC"),
        (lambda event: event["event"] != "RESOURCE_DETAIL", ":3", "no RESOURCE_DETAIL before it"),
        (lambda event: event["event"] != "RESOURCE_SAMPLE", "", "there are no samples of a process"),
        (lambda event: event.pop("timestamp") and False, ":1", "missing required field `timestamp`"),
        (lambda event: event.update(timestamp=5_000_100_000_000) or True, ":7", "time runs backwards"),
    ],
)
def test_what_is_broken_is_named_with_its_line(tmp_path, keep, place, message):
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    path = run / "ebpf_trace.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [event for event in events if keep(event)] or events
    path.write_text("".join(json.dumps(event) + "\n" for event in kept))
    with pytest.raises(InvalidInput) as caught:
        _read(run)
    assert caught.value.place == f"{path}{place}"
    assert message in caught.value.detail
