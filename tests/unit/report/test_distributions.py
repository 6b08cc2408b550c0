# SPDX-License-Identifier: Apache-2.0
"""Figures of all rounds together."""

import pytest

from agentcg.report.distributions import call_durations, completion, latencies


def test_completion_has_a_dot_a_round_and_a_median(arm):
    rounds = [{"x": arm("x", 10 + at, [20])} for at in range(7)]
    figure = completion("c", rounds, ["x", "y"])
    assert figure.tables[0].rows[0][:3] == ("protected sessions", "x", "7")
    assert figure.tables[0].rows[0][3].startswith("1.30 [")
    dots = [trace for trace in figure.plot["data"] if trace["name"] == "a round"]
    assert [len(trace["x"]) for trace in dots] == [7, 7]
    assert [trace["showlegend"] for trace in dots] == [True, False]


def test_completion_of_nobody_is_no_figure(arm):
    assert completion("c", [{"x": arm("x", 10, [20], died=("a", "b"))}], ["x"]) is None


def test_latencies_are_medians_over_sessions_and_rounds(arm):
    figure = latencies("l", [{"x": arm("x", 10, [20, 30])}] * 2, ["x"])
    assert figure.tables[0].rows == (
        ("growth steps of protected sessions", "x", "6", "1 ms", "2 ms", "3 ms"),
        ("growth steps of other sessions", "x", "12", "1 ms", "2 ms", "3 ms"),
        ("beginning and ending a call", "x", "18", "0.1 ms", "0.2 ms", "0.3 ms"),
    )


def test_durations_are_a_distribution_an_arm():
    figure = call_durations("d", {"x": [float(at + 1) for at in range(1000)], "y": [0.0], "z": []})
    x, y = figure.plot["data"]
    assert len(x["x"]) == 300
    assert (x["x"][-1], x["y"][-1]) == (1000.0, 100.0)
    assert y["x"][0] == pytest.approx(1e-5)
    assert x["line"]["dash"] != y["line"]["dash"]
    assert figure.tables[0].rows[0] == ("x", "1000", "500 s", "950 s", "1000 s")
    assert call_durations("d", {"z": []}) is None
