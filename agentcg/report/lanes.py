# SPDX-License-Identifier: Apache-2.0
"""One arm in one round over time: a lane for each session with its memory, its limits, its CPU time and its calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from agentcg.replay.result import ArmResult
from agentcg.report.lane_tables import call_table, session_table
from agentcg.report.marks import (
    BLUE,
    GREEN,
    GREY,
    LEGEND,
    PURPLE,
    VERMILLION,
    Figure,
    figure_text,
    json_points,
)
from agentcg.report.timeline import Points, Session, Span, Stop, Timeline
from agentcg.units import format_duration, format_size

__all__ = ["lanes"]

MIB = float(1 << 20)
_CAPTION, _GAP, _FOOT, _TOTAL, _MEMORY, _CPU, _TRACK = 26, 28, 90, 90, 84, 40, 14
"""Heights in pixels."""

_BARS: dict[str, dict[str, Any]] = {
    "call": {"color": BLUE},
    "call that failed": {
        "color": VERMILLION,
        "pattern": {"shape": "/", "size": 6, "fillmode": "overlay", "fgcolor": "#ffffff"},
    },
    "held": {"color": GREY, "pattern": {"shape": ".", "size": 4, "fillmode": "overlay", "fgcolor": "#ffffff"}},
    "frozen": {"color": PURPLE, "pattern": {"shape": "x", "size": 6, "fillmode": "overlay", "fgcolor": "#ffffff"}},
}
_SYMBOLS: dict[str, dict[str, Any]] = {
    "throttled": {"symbol": "triangle-down", "color": GREEN},
    "killed": {"symbol": "x", "color": VERMILLION},
    "yielded": {"symbol": "diamond", "color": PURPLE, "size": 6},
}


def lanes(name: str, title: str, timeline: Timeline, result: ArmResult) -> Figure:
    """Return the figure of a timeline.

    :param name: of the figure's file
    :param result: what the arm came to in that round
    """
    drawing = _Drawing(timeline.end)
    drawing.row("all sessions together: memory, MiB", _TOTAL)
    drawing.line("memory", timeline.total, MIB, color=BLUE)
    drawing.limit("limit of all", [(0.0, result.memory_max)], VERMILLION, "solid")
    drawing.limit("limit of those not protected", timeline.wall, PURPLE, "dashdot")
    drawing.limit("reserved", timeline.reserved, GREEN, "dash")
    protected = {session.name for session in result.sessions if session.protected}
    for lane in timeline.sessions.values():
        drawing.lane(lane, protected=lane.name in protected)
    return Figure(name, title, _alt(title, timeline), drawing.plot(), (session_table(timeline), call_table(timeline)))


class _Drawing:
    """Rows below one another, on one axis of time."""

    def __init__(self, end: float) -> None:
        self.end = end
        self.traces: list[dict[str, Any]] = []
        self.rows: list[tuple[str, int, int, dict[str, Any]]] = []
        self.named: set[str] = set()

    def row(self, caption: str, height: int, *, gap: int = 0, **axis: Any) -> None:
        """Begin a row. What is added goes there."""
        self.rows.append(
            (caption, _CAPTION + gap, height, {"nticks": 4, "rangemode": "tozero", "fixedrange": True} | axis)
        )

    def lane(self, lane: Session, *, protected: bool) -> None:
        caption = f"<b>{figure_text(lane.name, 40)}</b><br>{'protected: ' * protected}memory, MiB"
        self.row(caption, _MEMORY, gap=_GAP)
        self.line("memory", lane.memory, MIB, color=BLUE)
        self.limit("memory.high", lane.high, PURPLE, "dash")
        self.limit("memory.max", lane.max, VERMILLION, "dot")
        if lane.kv:
            self.row("KV cache, MiB", _CPU)
            for (state, points), color in zip(lane.kv.items(), cycle((GREEN, PURPLE, GREY)), strict=False):
                self.line(f"KV cache: {figure_text(state)}", points, MIB, self.end, color=color, shape="hv")
        if lane.cpu:
            self.row("CPUs in use", _CPU)
            self.line("CPUs in use", lane.cpu, 1.0, color=GREY, shape="vh")
        tracks = lane.tracks
        ticks: dict[str, Any] = {"showticklabels": False, "showgrid": False, "zeroline": False, "rangemode": "normal"}
        self.row("calls", 10 + _TRACK * tracks, **ticks | {"range": [tracks - 0.4, -0.6]})
        for failed, kind in ((False, "call"), (True, "call that failed")):
            self._spans(kind, [span for span in lane.spans if (span.outcome not in ("ok", "")) is failed])
        for kind in ("held", "frozen"):
            self._bars(kind, lane, [stop for stop in lane.stops if stop.kind == kind])
        for kind in _SYMBOLS:
            self._symbols(kind, lane, [stop for stop in lane.stops if stop.kind == kind])

    def line(self, name: str, points: Points, unit: float, end: float | None = None, **line: Any) -> None:
        style = {"type": "scatter", "mode": "lines", "fill": "tozeroy", "fillcolor": f"{line['color']}33"}
        self._add(name, style | {"line": {"width": 1.5} | line} | json_points(points, unit, end))

    def limit(self, name: str, points: Points, color: str, dash: str) -> None:
        if any(value for _, value in points):
            line = {"color": color, "width": 1.5, "dash": dash, "shape": "hv"}
            trace = {"type": "scatter", "mode": "lines", "line": line}
            self._add(name, trace | json_points(points, MIB, self.end))

    def _spans(self, kind: str, spans: Sequence[Span]) -> None:
        if spans:
            ends = [self.end if span.end is None else span.end for span in spans]
            self._add_bars(
                kind,
                [(span.begin, end, float(span.track)) for span, end in zip(spans, ends, strict=True)],
                [_hover(span, self.end) for span in spans],
                0.8,
            )

    def _bars(self, kind: str, lane: Session, stops: Sequence[Stop]) -> None:
        whole = (lane.tracks - 1) / 2
        for one in (True, False):  # A call of its own, or the session as a whole.
            some = [stop for stop in stops if (stop.call is not None) is one]
            if some:
                places = [(stop.begin, stop.end or self.end, _track(lane, stop, whole)) for stop in some]
                self._add_bars(kind, places, [_said(kind, stop) for stop in some], 0.4 if one else float(lane.tracks))

    def _add_bars(
        self, kind: str, places: Sequence[tuple[float, float, float]], texts: list[str], width: float
    ) -> None:
        trace = {
            "type": "bar",
            "orientation": "h",
            "base": [round(begin, 3) for begin, _, _ in places],
            "x": [round(end - begin, 3) for begin, end, _ in places],
            "y": [track for _, _, track in places],
            "width": width,
            # The line makes a call of no length a visible one.
            "marker": _BARS[kind] | {"line": {"width": 1, "color": _BARS[kind]["color"]}},
        }
        self._add(kind, trace | {"customdata": texts, "hovertemplate": "%{customdata}<extra></extra>"})

    def _symbols(self, kind: str, lane: Session, stops: Sequence[Stop]) -> None:
        if stops:
            trace = {
                "type": "scatter",
                "mode": "markers",
                "x": [round(stop.begin, 3) for stop in stops],
                "y": [_track(lane, stop, (lane.tracks - 1) / 2) for stop in stops],
                "marker": {"size": 9} | _SYMBOLS[kind] | {"line": {"width": 1, "color": "#ffffff"}},
                "cliponaxis": False,
            }
            texts = [_said(kind, stop) for stop in stops]
            self._add(kind, trace | {"customdata": texts, "hovertemplate": "%{customdata}<extra></extra>"})

    def _add(self, name: str, trace: dict[str, Any]) -> None:
        number = len(self.rows)
        shown = name not in self.named
        self.named.add(name)
        axis = "y" if number == 1 else f"y{number}"
        self.traces.append(trace | {"name": name, "legendgroup": name, "showlegend": shown, "yaxis": axis})

    def plot(self) -> dict[str, Any]:
        height = sum(above + pixels for _, above, pixels, _ in self.rows)
        axes: dict[str, Any] = {}
        captions = []
        top = 0
        for number, (caption, above, pixels, axis) in enumerate(self.rows, 1):
            begin, top = top + above, top + above + pixels
            axes["yaxis" if number == 1 else f"yaxis{number}"] = axis | {
                "domain": [max(0.0, 1 - top / height), 1 - begin / height],
                "anchor": "x",
            }
            captions.append(_caption(caption, 1 - begin / height))
        return {
            "data": self.traces,
            "layout": axes
            | {
                "xaxis": {
                    "anchor": "y" if len(self.rows) == 1 else f"y{len(self.rows)}",
                    "range": [0, round(self.end, 3) or 1],
                    "title": {"text": "seconds since the arm's start"},
                },
                "annotations": captions,
                "barmode": "overlay",
                "height": height + _FOOT,
                "margin": {"l": 48, "r": 12, "t": 4, "b": _FOOT - 4},
                "legend": LEGEND,
            },
        }


def _caption(text: str, y: float) -> dict[str, Any]:
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": y, "yref": "paper", "yanchor": "bottom"}
    return place | {"text": text, "align": "left", "showarrow": False, "font": {"size": 12}, "xshift": -46, "yshift": 4}


def _track(lane: Session, stop: Stop, whole: float) -> float:
    """The track of the call that was stopped, or of the one that it waits for to begin."""
    return next((float(span.track) for span in lane.spans if span.call == stop.call), whole)


def _hover(span: Span, last: float) -> str:
    lasted = format_duration((last if span.end is None else span.end) - span.begin)
    lines = [figure_text(span.command or span.tool or span.call), f"{lasted}, {span.outcome or 'did not end'}"]
    lines += [f"{format_size(span.peak)} at most"] if span.peak is not None else []
    return "<br>".join(lines + ([figure_text(span.advice)] if span.advice else []))


def _said(kind: str, stop: Stop) -> str:
    lasted = "" if stop.end is None else f" for {format_duration(stop.end - stop.begin)}"
    return f"{kind}{lasted}" + (f"<br>{figure_text(stop.why)}" if stop.why else "")


def _alt(title: str, timeline: Timeline) -> str:
    peak = max((value for _, value in timeline.total if value is not None), default=None)
    most = "" if peak is None else f" All together held {format_size(peak)} at most."
    return f"{title}: memory, CPU use and calls of {len(timeline.sessions)} sessions over {timeline.end:.1f} s.{most}"
