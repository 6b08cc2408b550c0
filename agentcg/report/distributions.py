# SPDX-License-Identifier: Apache-2.0
"""What all rounds of the arms come to: completion times, what growth steps and boundaries took, how long calls ran."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from agentcg.replay.result import ArmResult, Latency
from agentcg.report.compare import Round, slowdown
from agentcg.report.marks import BLUE, GREY, LEGEND, VERMILLION, Figure, Table, arm_line, figure_text
from agentcg.report.summary import format_estimate
from agentcg.statistics import median_of

__all__ = ["call_durations", "completion", "latencies"]

_ROW, _CAPTION, _AXIS, _LEGEND = 36, 34, 22, 32
"""Heights in pixels: of an arm, of what stands above a panel, of its axis, and of the legend."""
_LEAST_MS = 0.01
"""What took less is drawn there: a logarithm has no zero."""
_STEPS = 300
"""Of a distribution that is drawn."""

Panels = list[tuple[str, list[dict[str, Any]]]]


def completion(name: str, rounds: Sequence[Round], arms: Sequence[str]) -> Figure | None:
    """Return the times of the sessions that finished over the recorded ones, for each arm. None if none did."""
    panels: Panels = []
    rows = []
    for label, protected in (("protected sessions", True), ("other sessions", False)):
        traces: list[dict[str, Any]] = []
        for at, arm in enumerate(arms):
            times = slowdown([each[arm] for each in rounds if arm in each], protected=protected)
            if not times:
                continue
            middle = median_of(times)
            rows.append((label, arm, str(len(times)), format_estimate(middle), f"{min(times):.2f} to {max(times):.2f}"))
            traces.append(_dots("a round", times, at, arm, {"symbol": "circle-open", "size": 6, "color": GREY}))
            spread = {"array": [middle.hi - middle.value], "arrayminus": [middle.value - middle.lo]}
            mark = {"symbol": "diamond", "size": 9, "color": BLUE}
            bar = {"error_x": spread | {"type": "data", "symmetric": False, "color": BLUE, "thickness": 2}}
            traces.append(_dots("median, 95 % interval", [middle.value], at, arm, mark) | bar)
        if traces:
            panels.append((f"{label}, times the recorded length", traces))
    if not panels:
        return None
    title = "Completion"
    table = Table(title, ("Sessions", "Arm", "n", "Median [95 % interval]", "Range"), tuple(rows))
    alt = "Completion time over recorded time for each arm, a dot a round, with medians and their intervals."
    return Figure(name, title, alt, _panels(panels, arms, {}), (table,))


def latencies(name: str, rounds: Sequence[Round], arms: Sequence[str]) -> Figure | None:
    """Return what growth steps and boundaries took in each arm. None if nobody measured it."""
    panels: Panels = []
    rows = []
    kinds = (
        ("growth steps of protected sessions", "growth", True),
        ("growth steps of other sessions", "growth", False),
    )
    for label, kind, protected in (*kinds, ("beginning and ending a call", "boundaries", None)):
        traces: list[dict[str, Any]] = []
        for at, arm in enumerate(arms):
            found = _latencies([each[arm] for each in rounds if arm in each], kind, protected)
            if not found:
                continue
            values = [median(getattr(each, measure) for each in found) for measure in ("p50_ms", "p95_ms", "max_ms")]
            rows.append((label, arm, str(sum(each.n for each in found)), *(_number(value, "ms") for value in values)))
            shown = [max(value, _LEAST_MS) for value in values]
            line = {"type": "scatter", "mode": "lines", "x": [shown[0], shown[2]], "y": [at, at]}
            traces.append(line | {"line": {"color": GREY, "width": 1}, "showlegend": False, "hoverinfo": "skip"})
            for mark_name, value, mark in zip(("median", "95th percentile", "longest"), shown, _MARKS, strict=True):
                traces.append(_dots(mark_name, [value], at, arm, mark))
        if traces:
            panels.append((f"{label}, ms", traces))
    if not panels:
        return None
    title = "Growth and boundaries"
    columns = ("What", "Arm", "n", "Median", "95th percentile", "Longest")
    alt = "Median, 95th percentile and longest of growth steps and of call boundaries, for each arm, in milliseconds."
    plot = _panels(panels, arms, {"type": "log"})
    table = Table(f"{title}: medians over sessions and rounds", columns, tuple(rows))
    return Figure(name, title, alt, plot, (table,))


_MARKS = (
    {"symbol": "circle", "size": 9, "color": BLUE},
    {"symbol": "diamond-open", "size": 9, "color": BLUE, "line": {"width": 2}},
    {"symbol": "x", "size": 9, "color": VERMILLION},
)


def call_durations(name: str, durations: Mapping[str, Sequence[float]]) -> Figure | None:
    """Return how long calls ran, by arm and in seconds. None if none is known."""
    traces = []
    rows = []
    for index, (arm, times) in enumerate(durations.items()):
        if not times:
            continue
        ordered = sorted(max(time, _LEAST_MS / 1e3) for time in times)
        shares = sorted({math.ceil(len(ordered) * step / _STEPS) for step in range(1, _STEPS + 1)})
        at = {share: ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95, 1.0)}
        rows.append((arm, str(len(ordered)), *(_number(at[share], "s") for share in (0.5, 0.95, 1.0))))
        line = {"type": "scatter", "mode": "lines", "line": arm_line(index) | {"shape": "hv"}}
        values = {
            "x": [round(ordered[rank - 1], 5) for rank in shares],
            "y": [round(100 * rank / len(ordered), 1) for rank in shares],
        }
        traces.append(line | values | {"name": figure_text(arm, 32)})
    if not traces:
        return None
    title = "How long calls ran"
    layout = {
        "xaxis": {"type": "log", "title": {"text": "seconds"}},
        "yaxis": {"title": {"text": "% of calls ran no longer"}, "range": [0, 101], "fixedrange": True},
        "height": 340,
        "margin": {"l": 52, "r": 12, "t": 8, "b": 52 + _LEGEND},
        "legend": LEGEND,
    }
    table = Table(title, ("Arm", "n", "Median", "95th percentile", "Longest"), tuple(rows))
    alt = "Cumulative distribution of the durations of calls, a line for each arm."
    return Figure(name, title, alt, {"data": traces, "layout": layout}, (table,))


def _number(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _latencies(results: Sequence[ArmResult], kind: str, protected: bool | None) -> list[Latency]:
    sessions = [session for result in results for session in result.sessions]
    chosen = [session for session in sessions if protected is None or session.protected == protected]
    return [found for session in chosen if (found := getattr(session, kind)).n]


def _dots(name: str, values: Sequence[float], at: int, arm: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [round(value, 4) for value in values],
        "y": [at] * len(values),
        "marker": marker,
        "hovertemplate": f"{figure_text(arm)}, {name}: %{{x}}<extra></extra>",
    }


def _panels(panels: Panels, arms: Sequence[str], axis: dict[str, Any]) -> dict[str, Any]:
    """Panels below one another, each with its own axis and a row for each arm."""
    rows = _ROW * len(arms)
    pixels = _CAPTION + rows + _AXIS
    height = pixels * len(panels)
    layout: dict[str, Any] = {"annotations": []}
    data = []
    named = set()
    for number, (caption, traces) in enumerate(panels, 1):
        suffix = "" if number == 1 else str(number)
        top = 1 - ((number - 1) * pixels + _CAPTION) / height
        layout[f"xaxis{suffix}"] = axis | {"anchor": f"y{suffix}", "zeroline": False, "nticks": 6}
        layout[f"yaxis{suffix}"] = {
            "anchor": f"x{suffix}",
            "domain": [top - rows / height, top],
            "tickvals": list(range(len(arms))),
            "showticklabels": False,
            "range": [len(arms) - 0.7, -0.8],
            "fixedrange": True,
        }
        layout["annotations"].append(_label(f"<b>{caption}</b>", "paper", top) | {"yshift": 4})
        layout["annotations"] += [
            _label(figure_text(arm, 40), f"y{suffix}", at) | {"yshift": 5} for at, arm in enumerate(arms)
        ]
        for trace in traces:
            shown = trace.get("showlegend", True) and trace["name"] not in named
            named |= {trace["name"]} if shown else set()
            axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
            data.append(trace | axes | {"showlegend": shown, "legendgroup": trace.get("name", "")})
    layout |= {"height": height + _LEGEND, "margin": {"l": 12, "r": 16, "t": 0, "b": _LEGEND}, "legend": LEGEND}
    return {"data": data, "layout": layout}


def _label(text: str, axis: str, y: float) -> dict[str, Any]:
    """Text at the left, on ``y``: what stands beside a plot takes half of a narrow screen."""
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": y, "yref": axis, "yanchor": "bottom"}
    return place | {"text": text, "showarrow": False, "borderpad": 0}
