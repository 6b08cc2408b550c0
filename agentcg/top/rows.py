# SPDX-License-Identifier: Apache-2.0
"""From what the daemon says to rows: tenants, their sessions, their calls. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from agentcg.api.types import KvSession, SessionInfo, SnapshotPart, ToolCallInfo

__all__ = ["BY_HAND", "Row", "Sort", "count", "rows_of"]

_N = TypeVar("_N", int, float)

BY_HAND = "by hand"
"""The state of what is frozen so."""

Sort = Literal["memory", "cpu", "time"]
"""By what tenants are sorted, sessions in their tenant, and calls in their session: the most first."""


@dataclass(frozen=True, slots=True)
class Row:
    """A tenant, a session or a call. None is not known, or does not apply; memory is in bytes."""

    kind: Literal["tenant", "session", "call"]
    name: str
    """TENANT, TENANT/SESSION or TENANT/SESSION/CALL."""
    text: str
    """What else there is to say: a call's command."""
    memory: int | None = None
    high: int | None = None
    maximum: int | None = None
    cpu_percent: float | None = None
    """Of one CPU, since the snapshot before; without one, since it began."""
    pressure: float | None = None
    """The share of the last 10 s, in percent, in which some of its tasks waited for memory."""
    elapsed_sec: float | None = None
    """How long it has run, without the time for which it was stopped."""
    predicted_sec: float | None = None
    kv_cache: int | None = None
    """What it has in the caches of LLM servers."""
    kv_pinned: bool = False
    """Nobody else can take that for some time."""
    call_class: str = ""
    state: str = ""

    @property
    def by_hand(self) -> bool:
        """Whether it is frozen by hand."""
        return self.state == BY_HAND


def rows_of(
    now: SnapshotPart, before: SnapshotPart | None = None, *, sort: Sort = "memory", wanted: str = ""
) -> list[Row]:
    """Return what is to be shown, in its order.

    :param before: an earlier snapshot of the same daemon
    :param wanted: only calls in whose name, class, state, tool or command this is, and sessions in whose name it is;
        upper and lower case are the same
    """
    wanted = wanted.lower()
    calls: defaultdict[str, list[ToolCallInfo]] = defaultdict(list)
    for call in now.calls:
        if wanted in f"{call.call} {call.callClass} {_state(call)} {call.tool} {call.command}".lower():
            calls[call.call.rpartition("/")[0]].append(call)
    tenants: defaultdict[str, list[SessionInfo]] = defaultdict(list)
    for session in now.sessions:
        if session.session in calls or wanted in session.session.lower():
            tenants[session.session.partition("/")[0]].append(session)
    cpu = _cpu(now, before)
    cached: defaultdict[str, list[KvSession]] = defaultdict(list)
    for held in now.kvSessions or ():
        cached[held.session].append(held)
    found: list[tuple[Row, list[tuple[Row, list[Row]]]]] = []
    for tenant, sessions in tenants.items():
        below = [
            (
                _session(session, now, cpu(session.session, session.cpuSec, session.opened), cached[session.session]),
                _sorted(
                    [_call(call, now, cpu(call.call, call.cpuSec, call.started)) for call in calls[session.session]],
                    sort,
                ),
            )
            for session in sessions
        ]
        below.sort(key=lambda one: _key(one[0], sort), reverse=True)
        found.append((_tenant(tenant, sessions, [row for row, _ in below]), below))
    found.sort(key=lambda one: _key(one[0], sort), reverse=True)
    return [
        row
        for tenant_row, below in found
        for row in (tenant_row, *(row for session_row, under in below for row in (session_row, *under)))
    ]


def _key(row: Row, sort: Sort) -> tuple[float, str]:
    value = {"memory": row.memory, "cpu": row.cpu_percent, "time": row.elapsed_sec}[sort]
    return -1.0 if value is None else float(value), row.name


def _sorted(rows: Iterable[Row], sort: Sort) -> list[Row]:
    return sorted(rows, key=lambda row: _key(row, sort), reverse=True)


def _cpu(now: SnapshotPart, before: SnapshotPart | None) -> Callable[[str, float | None, float], float | None]:
    """Return what tells the CPU time per second of somebody, by name, CPU seconds so far and when he began."""
    known: dict[str, float | None] = {}
    if before is not None:
        known = {one.session: one.cpuSec for one in before.sessions} | {one.call: one.cpuSec for one in before.calls}

    def percent(name: str, used: float | None, began: float) -> float | None:
        if used is None:
            return None
        earlier = known.get(name)
        # A name may have been taken again: then it has used less than before.
        if earlier is not None and before is not None and earlier <= used:
            return 100 * (used - earlier) / max(now.time - before.time, 0.001)
        return 100 * used / max(now.time - began, 0.001)

    return percent


def _tenant(name: str, infos: list[SessionInfo], sessions: list[Row]) -> Row:
    calls = sum(info.calls for info in infos)
    return Row(
        "tenant",
        name,
        f"{count(len(infos), 'session')}, {count(calls, 'call')}",
        memory=_sum(row.memory for row in sessions),
        cpu_percent=_sum(row.cpu_percent for row in sessions),
        elapsed_sec=max((row.elapsed_sec for row in sessions if row.elapsed_sec is not None), default=None),
        kv_cache=_sum(row.kv_cache for row in sessions),
    )


def _session(info: SessionInfo, now: SnapshotPart, cpu_percent: float | None, cached: Sequence[KvSession]) -> Row:
    return Row(
        "session",
        info.session,
        count(info.calls, "call") + (", protected" if info.protected else ""),
        memory=info.memoryCurrent,
        high=info.memoryHigh,
        maximum=info.budget.memoryMax,
        cpu_percent=cpu_percent,
        pressure=info.memoryPressure,
        elapsed_sec=max(now.time - info.opened, 0.0),
        kv_cache=_sum(held.bytes for held in cached),
        kv_pinned=any(held.pinnedSec is not None for held in cached),
        state=_state(info),
    )


def _call(info: ToolCallInfo, now: SnapshotPart, cpu_percent: float | None) -> Row:
    return Row(
        "call",
        info.call,
        info.command or info.tool,
        memory=info.memoryCurrent,
        high=info.limits.memoryHigh,
        maximum=info.limits.memoryMax,
        cpu_percent=cpu_percent,
        pressure=info.memoryPressure,
        elapsed_sec=max(now.time - info.started - (info.stoppedSec or 0.0), 0.0),
        predicted_sec=info.durationPredictedSec,
        call_class=info.callClass,
        state=_state(info),
    )


def _state(info: SessionInfo | ToolCallInfo) -> str:
    return BY_HAND if info.frozenByHand else info.state or ""


def _sum(values: Iterable[_N | None]) -> _N | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def count(number: int, what: str) -> str:
    """Return such as ``1 call`` or ``2 calls``."""
    return f"{number} {what}" + ("" if number == 1 else "s")
