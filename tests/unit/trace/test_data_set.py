# SPDX-License-Identifier: Apache-2.0
"""The importer on the whole public data set, where AGENTCG_TRACES names a copy of it."""

import os

import pytest

from agentcg.trace.agentcgroup import find_attempts, import_attempt, recording_name
from agentcg.trace.demand import demand
from agentcg.trace.format import read, write

REAL = os.environ["AGENTCG_TRACES"]


def test_every_attempt_is_imported_and_divided(tmp_path):
    attempts = find_attempts(REAL)
    assert len(attempts) >= 102
    assert len({recording_name(attempt) for attempt in attempts}) == len(attempts)
    for attempt in attempts:
        recording = import_attempt(attempt)
        write(recording, tmp_path / "r.jsonl")
        assert read(tmp_path / "r.jsonl") == recording
        assert import_attempt(attempt, include_start=False).calls
        needs = demand(recording)
        for sample in recording.session_samples:
            assert needs.memory_at(sample.t_sec) == sample.memory_bytes


def test_a_known_one():
    (attempt,) = (item for item in find_attempts(REAL) if "haiku" in str(item) and "dask__dask-11628" in str(item))
    recording = import_attempt(attempt)
    assert len(recording.samples) == 95
    assert recording.duration_sec == pytest.approx(98.338, abs=0.001)
    assert recording.memory_peak == 320_900_000
    growth = demand(recording).growth
    assert growth.in_calls / growth.total > 0.85
