# SPDX-License-Identifier: Apache-2.0
"""From rows to lines of text: each as wide as the terminal at most, and as many as it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from agentcg.api.types import SnapshotPart, Verdict
from agentcg.top.rows import BY_HAND, Row, Sort, count
from agentcg.top.view import View
from agentcg.units import format_duration, format_size
from agentcg.verdict import one_line

__all__ = ["frame", "short_duration", "short_size"]

# The headings of the numbers and how wide they are.
_Numbers = tuple[tuple[str, int], ...]
_NUMBERS: _Numbers = (("MEM", 5), ("HIGH", 5), ("MAX", 5), ("CPU%", 5), ("PSI%", 4), ("TIME", 5), ("OF", 5))
_KV = ("KV", 6)  # Only there while an LLM server is.
_PINNED = "*"
_SORTED: dict[Sort, str] = {"memory": "MEM", "cpu": "CPU%", "time": "TIME"}
_CLASS, _STATE = 7, 9
_STATES = {"throttled": "yellow", "frozen": "cyan", BY_HAND: "cyan", "held": "magenta", "ending": "dim"}
_HELP = "m c t sort  / filter  ↑↓ select  f freeze  k kill  a amend  q quit"
VERDICTS, VERDICTS_SHORT = 8, 3
"""How many verdicts there is room for, and how many below :data:`TALL` lines."""
TALL = 40
NEAR = 0.9
"""From this part of its limit on, memory is red."""
WIDE = 120
"""From this width on a call is shown with its name as well as its command."""
TEXT_MAX = 300  # Characters of a command or an advice that may be wanted on a line.


def frame(now: SnapshotPart, rows: Sequence[Row], view: View | None, width: int, height: int | None) -> list[Text]:
    """Return the lines. Without a ``view`` nothing is selected and there are no keys; without a height, all rows."""
    verdicts = now.verdicts[: VERDICTS if height is None or height >= TALL else VERDICTS_SHORT]
    numbers = _NUMBERS if now.kvSessions is None else (*_NUMBERS, _KV)
    above = [_head(now), _heading(view, numbers)]
    below = ([Text("last verdicts", style="bold"), *map(_verdict, verdicts)] if verdicts else []) + _foot(view)
    selected = view.see(rows) if view is not None else None
    first, last = 0, len(rows)
    if height is not None:
        room = max(height - len(above) - len(below), 1)
        first = min(max((selected or 0) - room // 2, 0), max(len(rows) - room, 0))
        last = first + room
    lines = [_line(row, index == selected, width, numbers) for index, row in enumerate(rows[first:last], first)]
    if height is not None:
        lines += [Text()] * (room - len(lines))
        below = below[max(len(above) + room + len(below) - height, 0) :]
    lines = [*above, *lines, *below]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def short_size(size: float | None) -> str:
    """Return a size in five characters at most: ``1.6G``, ``512M``; ``-`` for None."""
    if size is None:
        return "-"
    number, unit = format_size(size).split()
    return number + unit[0]


def short_duration(seconds: float | None) -> str:
    """Return a duration in five characters at most: ``3.2s``, ``4m10``, ``17h03``, ``12d``; ``-`` for None."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}" if hours < 100 else f"{hours // 24}d"


def _head(now: SnapshotPart) -> Text:
    status = now.status
    states = Counter(call.state for call in now.calls)
    tenants = len({session.session.partition("/")[0] for session in now.sessions})
    counts = ((tenants, "tenant"), (len(now.sessions), "session"), (len(now.calls), "call"))
    parts = [", ".join(count(number, what) for number, what in counts)]
    parts += [f"{states[state]} {state}" for state in ("held", "frozen", "throttled") if states[state]]
    if status is not None:
        parts.insert(0, f"agentcg {status.version}, up {format_duration(max(now.time - status.started, 0.0))}")
    return Text("  ".join(parts))


def _heading(view: View | None, numbers: _Numbers) -> Text:
    heading = Text(style="bold")
    for name, width in numbers:
        sorted_by = view is not None and _SORTED[view.sort] == name
        heading.append(" " * (width - len(name)))
        heading.append(name, style="underline" if sorted_by else None).append(" ")
    return heading.append(f"{'CLASS':<{_CLASS}} {'STATE':<{_STATE}} NAME")


def _line(row: Row, selected: bool, width: int, numbers: _Numbers) -> Text:
    over_time = row.predicted_sec is not None and (row.elapsed_sec or 0) > row.predicted_sec
    near_limit = row.maximum is not None and (row.memory or 0) > row.maximum * NEAR
    styles = {"MEM": "red" if near_limit else None, "TIME": "yellow" if over_time else None}
    values = {
        "MEM": short_size(row.memory),
        "HIGH": short_size(row.high),
        "MAX": short_size(row.maximum),
        "CPU%": _percent(row.cpu_percent),
        "PSI%": _percent(row.pressure),
        "TIME": short_duration(row.elapsed_sec),
        "OF": short_duration(row.predicted_sec),
        "KV": "" if row.kind == "call" else short_size(row.kv_cache) + _PINNED * row.kv_pinned,
    }
    line = Text(style="reverse" if selected else "bold" if row.kind == "tenant" else "")
    for name, columns in numbers:
        line.append(f"{values[name]:>{columns}} ", style=styles.get(name))
    line.append(f"{row.call_class[:_CLASS]:<{_CLASS}} ")
    line.append(f"{row.state:<{_STATE}} ", style=_STATES.get(row.state))
    name, text = row.name.rpartition("/")[2], one_line(row.text, TEXT_MAX)
    shown = text if row.kind == "call" and text and width < WIDE else f"{name}  {text}"
    return line.append("  " * row.name.count("/") + shown)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _verdict(verdict: Verdict) -> Text:
    usage = verdict.usage
    line = Text(f"{short_size(usage.memoryPeak):>5} {short_duration(usage.durationSec):>6} ")
    line.append(f"{verdict.outcome:<12} ", style="green" if verdict.outcome == "ok" else "red")
    return line.append(one_line(f"{verdict.call}  {verdict.advice or verdict.command}", TEXT_MAX))


def _foot(view: View | None) -> list[Text]:
    if view is None:
        return []
    asked = {
        "": view.trouble or view.message or (f"filter: {view.wanted}  " if view.wanted else "") + _HELP,
        "filter": f"filter: {view.typed}▏",
        "kill": f"kill {view.subject}? y, or any other key not to",
        "amend": f"amend {view.subject}, such as memory:2g,time:90s: {view.typed}▏",
    }
    return [Text(asked[view.asking], style="bold" if view.asking or view.message or view.trouble else "dim")]
