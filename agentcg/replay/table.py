# SPDX-License-Identifier: Apache-2.0
"""The table of a live replay: one row a session and measure, one column an arm."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentcg.replay.arm_spec import title_of
from agentcg.replay.result import ArmResult, Latency, SessionResult, TurnsResult
from agentcg.units import format_duration, format_size

__all__ = ["render"]

_SHOWN_CALLS = 3


def render(results: Sequence[ArmResult]) -> RenderableType:
    """Return the arms side by side, and below them what failed and why."""
    table = Table(title=_title(results[0]), title_justify="left", show_lines=False)
    table.add_column("Session")
    table.add_column("")
    for result in results:
        table.add_column(title_of(result.arm))
    for index in range(len(results[0].sessions)):
        sessions = [result.sessions[index] for result in results]
        served = any(session.turns is not None for session in sessions)
        rows = [_row(session) + (_turns(session.turns) if served else []) for session in sessions]
        for at, (label, _) in enumerate(rows[0]):
            first = Text(_name(sessions[0])) if at == 0 else Text("")
            table.add_row(first, label, *(row[at][1] for row in rows), end_section=at == len(rows[0]) - 1)
    table.add_row("all", "died", *(_deaths(result) for result in results))
    table.add_row("", "peak", *(format_size(result.memory_peak) for result in results))
    table.caption = "x: of the recorded time at this pace; growth: P50 / P95 / max of a growth step"
    if any(session.turns is not None for result in results for session in result.sessions):
        table.caption += "; turns: mean / P95"
    table.caption_justify = "left"
    return Group(table, *_explanations(results))


def _title(result: ArmResult) -> str:
    number = len(result.sessions)
    count = f"{number} session{'s' * (number > 1)}"
    return f"{count} at {result.speed:g} times the recorded pace, {format_size(result.memory_max)} for all"


def _name(session: SessionResult) -> str:
    return f"{session.name}\n{format_size(session.reserve)} reserved" if session.protected else session.name


def _row(session: SessionResult) -> list[tuple[str, Text]]:
    return [("", _state(session)), ("calls", _calls(session)), ("growth, ms", _growth(session.growth))]


def _growth(growth: Latency) -> Text:
    return Text(" / ".join(_ms(value) for value in (growth.p50_ms, growth.p95_ms, growth.max_ms)))


def _turns(turns: TurnsResult | None) -> list[tuple[str, Text]]:
    took, prompts = "–", "–"
    if turns is not None and turns.mean_sec is not None:
        took = f"{turns.n}, {format_duration(turns.mean_sec)} / {format_duration(turns.p95_sec)}"
    if turns is not None and turns.computed_tokens is not None:
        prompts = f"{turns.computed_tokens:,} of {turns.prompt_tokens:,} computed"
    return [("turns", Text(took)), ("prompt tokens", Text(prompts))]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _state(session: SessionResult) -> Text:
    time = format_duration(session.completion_sec)
    match session.state:
        case "finished":
            times = "" if session.ratio is None else f", {session.ratio:.2f} x"
            return Text(f"finished, {time}{times}", style="green")
        case "died":
            return Text(f"DIED after {time}", style="bold red")
        case "refused":
            return Text("refused", style="bold red")
        case "unanswered":
            return Text(f"UNANSWERED after {time}", style="bold red")
    return Text(f"not finished after {time}", style="red")


def _calls(session: SessionResult) -> Text:
    lost = session.calls_recorded - session.calls_started
    parts = [f"{session.calls_started - len(session.failed)} of {session.calls_recorded} ok"]
    parts += [f"{len(session.failed)} failed"] if session.failed else []
    parts += [f"{lost} not made"] if lost else []
    return Text(", ".join(parts), style="yellow" if len(parts) > 1 else "green")


def _deaths(result: ArmResult) -> Text:
    agents = sum(session.state == "died" for session in result.sessions)
    calls = sum(session.oom_kills_call for session in result.sessions)
    text = f"{agents} {'agent' if agents == 1 else 'agents'}, {calls} {'call' if calls == 1 else 'calls'}"
    return Text(text, style="bold red" if agents else "yellow" if calls else "green")


def _explanations(results: Sequence[ArmResult]) -> list[Text]:
    lines = []
    for result in results:
        for session in result.sessions:
            if session.reason:
                lines.append(Text(f"{title_of(result.arm)}, {session.name}: {session.reason}."))
            for call in session.failed[:_SHOWN_CALLS]:
                said = call.advice or f"{call.outcome.replace('_', ' ')}, and nobody told the agent why"
                lines.append(Text(f"{title_of(result.arm)}, {session.name}, {_short(call.command)}: {said}"))
            more = len(session.failed) - _SHOWN_CALLS
            if more > 0:
                lines.append(Text(f"{title_of(result.arm)}, {session.name}: {more} more calls failed."))
    return lines


def _short(command: str, limit: int = 40) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in command).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
