# SPDX-License-Identifier: Apache-2.0
"""The importers on the public AgentCgroup data set, where AGENTCG_TRACES names a copy of it or of a part of it."""

import json
import os
import statistics
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from agentcg.trace.agentcgroup import find_attempts, import_attempt, recording_name
from agentcg.trace.demand import demand
from agentcg.trace.format import read, write
from agentcg.trace.registry import IMPORTERS, find_sources
from agentcg.trace.stats import session_figures

REAL = os.environ["AGENTCG_TRACES"]
MB = 10**6

# Peak and mean in MB, seconds, calls.
KNOWN = {
    "all_images_haiku/tobymao__sqlglot-4014": (2076, 314, 295, 33),
    "all_images_haiku/pre-commit__pre-commit-2524": (1862, 306, 327, 24),
    "all_images_local/pydicom__pydicom-2065": (2041, 181, 605, 68),
    "all_images_local/dask__dask-5510": (1367, 217, 418, 78),
    "all_images_local/Aarhus-Psychiatry-Research__timeseriesflattener-186": (834, 250, 581, 71),
    "all_images_local/sigmavirus24__github3.py-673": (973, 378, 771, 91),
    "batch_swebench_18tasks/Medical_Bio_Hard": (4060, 266, 538, 89),
    "batch_swebench_18tasks/ML_Scientific_Easy": (1403, 257, 360, 48),
}


def _whole(attempt):
    return (attempt / "resources.json").exists() and (attempt / "tool_calls.json").exists()


ATTEMPTS = [attempt for attempt in find_attempts(REAL) if _whole(attempt)]


PRESENT = {name: figures for name, figures in KNOWN.items() if any(name in str(attempt) for attempt in ATTEMPTS)}


def test_every_attempt_is_imported_and_divided(tmp_path):
    assert len(ATTEMPTS) >= 102
    assert len({recording_name(attempt) for attempt in ATTEMPTS}) == len(ATTEMPTS)
    for attempt in ATTEMPTS:
        if not json.loads((attempt / "tool_calls.json").read_text()):
            continue  # There is no recording without calls.
        recording = import_attempt(attempt)
        write(recording, tmp_path / "r.jsonl")
        assert read(tmp_path / "r.jsonl") == recording
        assert import_attempt(attempt, include_start=False).calls
        needs = demand(recording)
        for sample in recording.session_samples:
            assert needs.memory_at(sample.t_sec) == sample.memory_bytes


def test_a_known_one():
    (attempt,) = (item for item in ATTEMPTS if "haiku" in str(item) and "dask__dask-11628" in str(item))
    recording = import_attempt(attempt)
    assert len(recording.samples) == 95
    assert recording.duration_sec == pytest.approx(98.338, abs=0.001)
    assert recording.memory_peak == 320_900_000
    growth = demand(recording).growth
    assert growth.in_calls / growth.total > 0.85


def test_the_set_is_found_as_what_it_is():
    found = find_sources(Path(REAL))
    assert {"agentcgroup"} <= {importer.name for importer, _ in found} <= {importer.name for importer in IMPORTERS}
    assert {source.path for importer, source in found if importer.name == "agentcgroup"} >= set(ATTEMPTS[:50])


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=recording_name)
def test_figures_are_what_the_files_say(attempt):
    """Computed once more, from the raw text and by other means."""
    rows = json.loads((attempt / "resources.json").read_text())["samples"]
    calls = json.loads((attempt / "tool_calls.json").read_text())
    if not calls:
        return
    sizes = [_megabytes(row["mem_usage"].split("/")[0].strip()) for row in rows]
    while sizes[-1] == 0:
        sizes.pop()
    changes = [after - before for before, after in pairwise(sizes)]
    figures = session_figures(import_attempt(attempt))
    known = [call for call in calls if call.get("end_timestamp")]
    assert len(known) <= figures.calls <= len(calls)
    memory = figures.memory
    assert memory.samples == len(sizes)
    assert memory.sampled_sec == pytest.approx(rows[len(sizes) - 1]["epoch"] - rows[0]["epoch"], abs=1e-5)
    assert memory.peak / MB == pytest.approx(max(sizes))
    assert memory.mean / MB == pytest.approx(statistics.mean(sizes))
    assert memory.largest_rise / MB == pytest.approx(max([0, *changes]))
    assert memory.largest_fall / MB == pytest.approx(max([0, *(-change for change in changes)]))
    assert memory.steps == sum(abs(change) > 50 - 1e-6 for change in changes)
    last = rows[len(sizes) - 1]
    used = float(last["cpu_percent"].rstrip("%")) / 100 * (last["epoch"] - rows[0]["epoch"])
    # The average is rounded to two digits, and CPU time is made never to fall.
    assert memory.cpu_sec == pytest.approx(used, rel=0.02, abs=0.1)
    if known == calls:
        spans = [(_time(call["timestamp"]), _time(call["end_timestamp"])) for call in calls]
        milliseconds = {tick for start, end in spans for tick in range(round(start * 1000), round(end * 1000))}
        assert figures.tool_sec == pytest.approx(len(milliseconds) / 1000, abs=1e-3)


def _megabytes(text):
    factor = {"kB": 1e-3, "MB": 1, "GB": 1e3}.get(text[-2:])
    return float(text[:-2]) * factor if factor else float(text.rstrip("B")) / 1e6


def _time(text):
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("name", sorted(PRESENT))
def test_sessions_that_others_described_are_as_they_said(name):
    peak, mean, length, calls = PRESENT[name]
    attempt = next(attempt for attempt in ATTEMPTS if name in str(attempt))
    figures = session_figures(import_attempt(attempt))
    assert figures.memory.peak / MB == pytest.approx(peak, abs=0.6)
    assert figures.memory.mean / MB == pytest.approx(mean, rel=0.01)
    assert figures.memory.sampled_sec == pytest.approx(length, abs=2.5)
    assert figures.calls == calls
