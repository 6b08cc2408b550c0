# SPDX-License-Identifier: Apache-2.0
"""What a set of sessions came to."""

import pytest

from agentcg.policy.load import load
from agentcg.trace.model import RecordedCall, Recording, Sample
from agentcg.trace.summary import Summary

MB = 10**6
SAMPLES = tuple(Sample(float(t), level * MB, t / 10) for t, level in enumerate([10, 10, 90, 30, 30, 40, 40, 40]))


def _call(name, start, end, command="", tool="Bash", **more):
    return RecordedCall(name, tool, command, start, end, **more)


@pytest.fixture
def found():
    """Return what is said of a session with samples, one without, and one of durations."""
    summary = Summary(load("default"))
    summary.add(
        Recording(
            "one",
            1.0,
            (
                _call("a", 1.5, 3.5, "cd src && pytest -q", exit_code=1),
                _call("b", 3.6, 3.65, "git status", exit_code=0),
                _call("c", 4.5, 5.5, "pytest", end_estimated=True),
                _call("d", 0.25, 0.5, "/a.py", tool="Read"),
            ),
            SAMPLES,
        )
    )
    summary.add(Recording("two", 1.0, (_call("a", 0.0, 70.0, "make test", tool="execute_bash", exit_code=0),)))
    summary.add(Recording("three", None, (_call("a", 0.0, 12.0, "ls", tool="bash"),), timing="durations"))
    return summary.to_dict()


def test_a_figure_counts_the_sessions_that_have_it(found):
    assert [session["name"] for session in found["sessions"]] == ["one", "two", "three"]
    assert {name: figure and figure["n"] for name, figure in found["figures"].items() if name in ("calls", "peak")} == {
        "calls": 3,
        "peak": 1,
    }
    assert found["figures"]["duration_sec"]["n"] == 2
    assert found["figures"]["peak"]["max"] == 90 * MB


def test_pooled_figures_are_of_all_sessions_together(found):
    pooled = found["pooled"]
    assert (pooled["samples"], pooled["sampled_sec"], pooled["steps"], pooled["steps_in_calls"]) == (8, 7.0, 2, 1.0)
    assert pooled["settled_steps_per_min"] is None, "the samples are too short for any"
    assert pooled["tool_share"] == pytest.approx((2 + 0.05 + 1 + 0.25 + 70) / 77)


def test_calls_that_are_estimated_have_no_duration(found):
    calls = found["calls"]
    assert (calls["n"], calls["estimated"], calls["duration_sec"]["n"]) == (6, 1, 5)
    assert (calls["under_100_ms"], calls["under_1_sec"]) == (0.2, 0.4)
    assert (calls["over_10_sec"], calls["over_60_sec"]) == (0.4, 0.2)
    assert (calls["without_sample"], calls["with_one_sample"]) == (0.5, 0.25)
    assert calls["exit_codes"] == {"0": 2, "1": 1}


def test_tools_are_listed_by_how_often_they_were_timed(found):
    assert [(tool["tool"], tool["duration_sec"]["n"]) for tool in found["tools"]] == [
        ("Bash", 2),
        ("Read", 1),
        ("bash", 1),
        ("execute_bash", 1),
    ]


def test_shell_commands_fall_into_the_policys_classes(found):
    classes = {item["class"]: item for item in found["classes"]}
    assert {name: item["n"] for name, item in classes.items()} == {"test": 2, "vcs": 1, "search": 1}
    assert classes["test"]["share_of_sec"] == pytest.approx(72 / 84.05)
    rise = classes["test"]["memory_rise"]
    assert (rise["n"], rise["max"], rise["p50"]) == (2, 80 * MB, 45 * MB)
    assert classes["vcs"]["memory_rise"] is None, "no sample was taken in it"


def test_of_nothing_nothing_is_known():
    found = Summary(load("default")).to_dict()
    assert found["figures"]["peak"] is None
    assert found["calls"]["under_1_sec"] is None
    assert found["pooled"]["tool_share"] is None
