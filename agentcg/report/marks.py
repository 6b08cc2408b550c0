# SPDX-License-Identifier: Apache-2.0
"""How things are drawn and written: colours, shapes, text that comes from recordings.

The colours are of the palette of Okabe and Ito (2008), which people tell apart however they see colour. Only those are
used that have a contrast of 3 : 1 to both backgrounds, as WCAG 2.2 (1.4.11) asks of graphics.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentcg.report.timeline import Points

__all__ = ["BLUE", "DARK", "GREEN", "GREY", "LEGEND", "LIGHT", "PURPLE", "VERMILLION", "Figure", "Table", "arm_line"]
__all__ += ["figure_text", "json_points", "short", "thin"]

BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#808080"
_ARMS = (GREY, PURPLE, GREEN, VERMILLION, BLUE)
_DASHES = ("dot", "dashdot", "dash", "longdash", "solid")

POINTS_MAX = 800
"""Of a line that is drawn: more than a screen has columns for."""


def _template(paper: str, text: str, grid: str) -> dict[str, Any]:
    axis = {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "tickcolor": grid, "automargin": False}
    label = {"bgcolor": paper, "bordercolor": text, "font": {"color": text}, "align": "left"}
    font = {"family": "system-ui, sans-serif", "size": 12, "color": text}
    layout = {"paper_bgcolor": paper, "plot_bgcolor": paper, "font": font, "xaxis": axis, "yaxis": axis}
    return {"layout": layout | {"hoverlabel": label, "legend": {"bgcolor": "rgba(0,0,0,0)"}}}


LEGEND = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
"""Below the plot; page.js makes room for as many lines as it takes."""

LIGHT = _template("#ffffff", "#1b1f24", "#d9dee4")
DARK = _template("#15191e", "#e4e8ec", "#353c45")
"""Templates of plotly: backgrounds, text and grids."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a table of the page says: plain text."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, as plotly.js takes it, and the same for who does not see it."""

    name: str
    """Of its file, and in the page."""
    title: str
    alt: str
    plot: dict[str, Any]
    tables: tuple[Table, ...]


def arm_line(index: int) -> dict[str, Any]:
    """Return the line of the arm at ``index``: a colour and dashes of its own."""
    return {"color": _ARMS[index % len(_ARMS)], "dash": _DASHES[index % len(_DASHES)], "width": 2}


def short(text: str, limit: int = 80) -> str:
    """Return one printable line of ``text``, cut at ``limit`` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def figure_text(text: str, limit: int = 80) -> str:
    """Return text for a plot, where plotly takes tags and entities for markup."""
    return html.escape(short(text, limit))


def thin(points: Points, limit: int = POINTS_MAX) -> Points:
    """Return at most some ``limit`` of the points: of each stretch its first, lowest, highest and last."""
    if len(points) <= limit:
        return points
    width = -(-len(points) * 4 // limit)
    kept: Points = []
    for begin in range(0, len(points), width):
        stretch = points[begin : begin + width]
        at = {0, len(stretch) - 1}
        known = [index for index, (_, value) in enumerate(stretch) if value is not None]
        if known:
            at |= {min(known, key=lambda index: stretch[index][1] or 0.0)}
            at |= {max(known, key=lambda index: stretch[index][1] or 0.0)}
        kept += [stretch[index] for index in sorted(at)]
    return kept


def json_points(points: Points, unit: float = 1.0, end: float | None = None) -> dict[str, Sequence[float | None]]:
    """Return x and y of a line, in ``unit``; what holds until something else does goes on to ``end``."""
    kept = thin(points)
    if end is not None and kept and kept[-1][0] < end:
        kept = [*kept, (end, kept[-1][1])]
    return {
        "x": [round(time, 3) for time, _ in kept],
        "y": [None if value is None else round(value / unit, 3) for _, value in kept],
    }
