# SPDX-License-Identifier: Apache-2.0
"""The page: one file that loads nothing. Its scripts run by their digests, so nothing that a recording says can."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from importlib import resources
from string import Template

from agentcg.report.agreement import Agreement
from agentcg.report.build import Report, Section
from agentcg.report.marks import DARK, LIGHT, Figure, Table

__all__ = ["render"]

_WHOLE = re.compile(r"[0-9.]+ \[[0-9.]+, [0-9.]+\]|\bn = [0-9]+")


def render(report: Report, library: str) -> str:
    """Return the page.

    :param library: the text of plotly.js
    """
    files = resources.files("agentcg.report")
    style, script, page = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html"))
    plots = {
        "plots": {figure.name: figure.plot for figure in report.figures},
        "templates": {"light": LIGHT, "dark": DARK},
    }
    titles = ", ".join(section.title for section in report.sections)
    return Template(page).substitute(
        title=html.escape(f"{titles}: agentcg report"),
        digests=" ".join(map(_digest, (library, script))),
        style=style,
        first="".join([*map(_first, report.sections), *map(_agreement, report.agreements)]),
        notes=_notes(report.notes),
        rest="".join(map(_rest, report.sections)),
        # No "<", so that no text ends the element: https://html.spec.whatwg.org/multipage/scripting.html#restrictions-for-contents-of-script-elements
        plots=json.dumps(plots, separators=(",", ":")).replace("<", "\\u003c"),
        library=library,
        script=script,
    )


def _digest(text: str) -> str:
    """Name a script in a Content-Security-Policy: https://www.w3.org/TR/CSP3/#grammardef-hash-source."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _first(section: Section) -> str:
    return (
        f"<section><h2>{html.escape(section.title)}</h2>"
        f'<p class="sentence">{_text(section.summary.sentence)}</p>{_table(section.verdict)}</section>'
    )


def _agreement(pair: Agreement) -> str:
    return (
        f"<section><h2>{html.escape(pair.title)}</h2>"
        f'<p class="sentence">{_text(pair.sentence)}</p>{_table(pair.table)}</section>'
    )


def _rest(section: Section) -> str:
    parts = [f"<section><h2>{html.escape(section.title)}: what happened</h2>{_notes(section.notes)}"]
    parts += [_lanes(section)] if section.lanes else []
    parts += [_figure(figure) for figure in section.figures]
    parts += [] if section.turns is None else ["<h3>Turns of the language model</h3>", _table(section.turns)]
    parts += ["<h3>Who was held, frozen, throttled or killed, and why</h3>", *map(_table, section.stops)]
    parts += ["<h3>What was run on what</h3>", *map(_table, section.what)]
    return "".join(parts) + "</section>"


def _lanes(section: Section) -> str:
    """Those of all arms, of which one is shown at a time."""
    names = [figure.name for figure in section.lanes.values()]
    options = "".join(
        f'<option value="{figure.name}"{" selected" * (arm == section.summary.best)}>{html.escape(arm)}</option>'
        for arm, figure in section.lanes.items()
    )
    chooser = f'<label>Arm <select data-shows="{" ".join(names)}">{options}</select></label>'
    head = f"<h3>Over time: {html.escape(section.shown)}</h3><p>{chooser}</p>"
    return head + "".join(_figure(figure, hidden=arm != section.summary.best) for arm, figure in section.lanes.items())


def _figure(figure: Figure, *, hidden: bool = False) -> str:
    buttons = "".join(
        f'<button type="button" data-save="{kind}" data-of="{figure.name}">Save as {kind.upper()}</button>'
        for kind in ("svg", "png")
    )
    tables = "".join(map(_table, figure.tables))
    return (
        f'<figure id="{figure.name}"{" hidden" * hidden}><figcaption><strong>{html.escape(figure.title)}</strong>'
        f"<span>{buttons}</span></figcaption>"
        f'<div class="plot" role="img" aria-label="{html.escape(figure.alt)}" data-plot="{figure.name}"'
        f' style="height: {figure.plot["layout"]["height"]}px"></div>'
        f"<details><summary>The same as a table</summary>{tables}</details></figure>"
    )


def _table(table: Table) -> str:
    """Roles are said, since a narrow screen lays rows out as blocks, which takes theirs from them."""
    if not table.rows:
        return f'<p class="none">{html.escape(table.caption)}: nothing.</p>'
    columns = [html.escape(column) for column in table.columns]
    head = "".join(f'<th role="columnheader" scope="col">{column}</th>' for column in columns)
    head = f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>' if any(columns) else ""
    body = "".join(f'<tr role="row">{_cells(columns, row)}</tr>' for row in table.rows)
    caption = html.escape(table.caption)
    return f'<table role="table"><caption>{caption}</caption>{head}<tbody role="rowgroup">{body}</tbody></table>'


def _cells(columns: Iterable[str], row: Iterable[str]) -> str:
    first, *rest = zip(columns, row, strict=True)
    label = f'<th role="rowheader" scope="row">{html.escape(first[1])}</th>'
    named = (
        (f' data-label="{column}"' * bool(column), ' class="nothing"' * (cell == "–"), cell) for column, cell in rest
    )
    return label + "".join(f'<td role="cell"{name}{kind}>{_text(cell)}</td>' for name, kind, cell in named)


def _text(text: str) -> str:
    """Escape text, in which an interval and a number of rounds are not to be broken into lines."""
    return _WHOLE.sub(r'<span class="whole">\g<0></span>', html.escape(text))


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<div class="notes" role="note"><ul>{items}</ul></div>' if items else ""
