# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N815  the field names are the wire's, and Varlink's are camelCase
"""The types on the wire, field by field as an introspecting client sees them.

Memory is in bytes, durations are in seconds, points in time in seconds since the epoch, as in :mod:`agentcg.model`,
whose values these mirror. An absent or null field means what ``None`` means there.
"""

# Annotations are not postponed here: asyncvarlink reads them as objects.

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from agentcg import model
from agentcg.model import CpuClass, Outcome

__all__ = ["Budget", "Event", "Intent", "Limits", "SessionInfo", "SnapshotPart", "Status", "ToolCallInfo"]
__all__ += ["KvEngine", "KvEvent", "KvForecast", "KvQueue", "KvSession"]
__all__ += ["Usage", "Verdict", "camel", "from_wire", "to_wire", "verdict_to_wire"]


@dataclass
class Intent:
    memoryExpected: int | None = None
    memoryMax: int | None = None
    swapMax: int | None = None
    cpuClass: CpuClass | None = None
    cpuCores: float | None = None
    pidsMax: int | None = None
    ioClass: CpuClass | None = None
    durationExpectedSec: float | None = None
    durationMaxSec: float | None = None
    networkRate: int | None = None
    priority: int | None = None


@dataclass
class Budget:
    memoryExpected: int | None = None
    memoryMax: int | None = None
    swapMax: int | None = None
    pidsMax: int | None = None
    cpuWeight: int | None = None
    cpuCores: float | None = None


@dataclass
class Limits:
    cpuWeight: int
    ioWeight: int
    memoryLow: int | None = None
    memoryHigh: int | None = None
    memoryMax: int | None = None
    swapMax: int | None = None
    pidsMax: int | None = None
    cpuCores: float | None = None
    durationMaxSec: float | None = None
    networkRate: int | None = None


@dataclass
class Usage:
    durationSec: float
    cpuSec: float | None = None
    cpuUserSec: float | None = None
    cpuSystemSec: float | None = None
    cpuThrottledSec: float | None = None
    memoryPeak: int | None = None
    swapPeak: int | None = None
    memoryHighEvents: int | None = None
    memoryMaxEvents: int | None = None
    memoryOomEvents: int | None = None
    memoryStallSec: float | None = None
    oomKills: int | None = None
    oomGroupKills: int | None = None
    pidsPeak: int | None = None
    pidsLimitEvents: int | None = None
    ioReadBytes: int | None = None
    ioWrittenBytes: int | None = None
    frozenSec: float | None = None
    networkSentBytes: int | None = None
    networkReceivedBytes: int | None = None
    networkDroppedPackets: int | None = None
    networkRefused: int | None = None
    leftBehind: int | None = None
    refusals: int | None = None


@dataclass
class SessionInfo:
    """A session. ``session`` is its full name, TENANT/SESSION; ``container`` the id of the container that it is.
    ``state`` is running or frozen (``frozenByHand``: by Freeze), ``memoryHigh`` where it is slowed down now,
    ``memoryReserved`` what is set aside for it, and ``memoryPressure`` the share of the last 10 s, in percent, in which
    some of its tasks waited for memory."""

    session: str
    ownerUid: int
    opened: float
    budget: Budget
    protected: bool
    leased: bool
    transparent: bool
    calls: int
    container: str | None = None
    memoryCurrent: int | None = None
    cpuSec: float | None = None
    state: str | None = None
    memoryHigh: int | None = None
    memoryReserved: int | None = None
    memoryPressure: float | None = None
    frozenByHand: bool | None = None


@dataclass
class ToolCallInfo:
    """A running call. ``call`` is its full name, TENANT/SESSION/CALL. ``state`` is running, throttled, frozen, held or
    ending (``frozenByHand``: by Freeze, and not with its session); ``stoppedSec`` for how long it stood still so far.
    ``durationPredictedSec`` is how long it is expected to run: as declared, or as 95 of 100 calls like it did.
    ``memoryPressure`` is as a session's. ``cgroup`` is the directory of its cgroup."""

    call: str
    ownerUid: int
    started: float
    tool: str
    command: str
    callClass: str
    intent: Intent
    limits: Limits
    leased: bool
    memoryCurrent: int | None = None
    pidsCurrent: int | None = None
    cpuSec: float | None = None
    state: str | None = None
    stoppedSec: float | None = None
    durationPredictedSec: float | None = None
    memoryPressure: float | None = None
    cgroup: str | None = None
    frozenByHand: bool | None = None


@dataclass
class Verdict:
    """How a call ended. For the outcomes see agentcg.model.Outcome."""

    call: str
    outcome: Outcome
    usage: Usage
    limits: Limits
    started: float
    ended: float
    tool: str
    command: str
    callClass: str
    reason: str
    throttled: bool
    advice: str
    exitCode: int | None = None
    signal: int | None = None


@dataclass
class Event:
    """Something that happened to ``subject``, the full name of a session or a call. ``kind`` is one of
    session_opened, session_closed, session_adopted, session_pressure, session_frozen, session_thawed, call_begun,
    call_amended, call_held, call_frozen, call_thawed, call_throttled, call_oom, call_killed, call_ended, call_adopted,
    call_unmanaged, refused and lost."""

    sequence: int
    time: float
    kind: str
    subject: str
    message: str
    verdict: Verdict | None = None


@dataclass
class Status:
    """The daemon. ``controllers`` are those that calls are limited by; ``missing`` those it would like to have."""

    version: str
    pid: int
    started: float
    root: str
    policy: str
    controllers: list[str]
    missing: list[str]
    sessions: int
    calls: int
    callsBegun: int
    callsEnded: int
    callsAdopted: int
    refused: int


@dataclass
class KvSession:
    """What a session has in an engine's cache: ``tokens`` of its context, in ``bytes``. ``turns`` is how many requests
    of it wait or are served, null: none. For ``pinnedSec`` seconds from now nobody else can take it; null: anybody may.
    ``hit``: it has come back since the report before, and found its cache, or did not."""

    session: str
    tokens: int
    bytes: int
    turns: int | None = None
    pinnedSec: float | None = None
    hit: bool | None = None


@dataclass
class SnapshotPart:
    """A part of what there is at ``time``, to be put together. ``status`` is there once; ``verdicts`` are the last few,
    the newest first. ``kvSessions`` is what the sessions have in each engine's cache; null while no engine is there."""

    time: float
    status: Status | None
    sessions: list[SessionInfo]
    calls: list[ToolCallInfo]
    verdicts: list[Verdict]
    kvSessions: list[KvSession] | None = None


@dataclass
class KvQueue:
    """``waiting``: requests that are not served yet. ``freeBlocks``: blocks that a new one could have at once."""

    waiting: int
    freeBlocks: int


@dataclass
class KvEngine:
    """An engine, and what it has said. ``hits`` and ``misses`` count the sessions that have come back; ``pressure`` is
    what is made of its queue, 0 to 1."""

    engine: str
    totalBlocks: int
    blockBytes: int
    queue: KvQueue
    pressure: float
    hits: int
    misses: int
    sessions: list[KvSession]


@dataclass
class KvForecast:
    """When a call will be over, in seconds from now: what is not exceeded with a probability of 0.1, 0.5 and 0.9, and
    the mean."""

    p10Sec: float
    p50Sec: float
    p90Sec: float
    meanSec: float


@dataclass
class KvEvent:
    """Something happened to a call, or, where ``kind`` is closed, to a session: one of began, revised, frozen, thawed,
    ended, closed and lost. The first two and thawed have a forecast; while it is frozen, a call's stands still.
    ``missed`` is how many events were lost."""

    kind: str
    session: str | None = None
    call: str | None = None
    forecast: KvForecast | None = None
    missed: int | None = None


_T = TypeVar("_T")

_SHARED: dict[tuple[type, type], list[tuple[str, str]]] = {}  # Every reply asks again for the same few pairs.


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def camel(wire: type[_T], fields: Mapping[str, Any]) -> _T:
    """Return ``wire`` from fields named as in agentcg.model. :raises TypeError: for one that it does not have"""
    return wire(**{_camel(name): value for name, value in fields.items()})


def to_wire(wire: type[_T], value: Any, **extra: Any) -> _T:
    """Return ``value``, a dataclass of agentcg.model, as ``wire``; ``extra`` gives the fields that differ."""
    given = {name: getattr(value, attribute) for name, attribute in _shared(wire, type(value)) if name not in extra}
    return wire(**given, **extra)


def verdict_to_wire(verdict: model.Verdict) -> Verdict:
    """Return a verdict as the socket, and everything else that prints one as JSON, has it."""
    return to_wire(
        Verdict,
        verdict,
        call=str(verdict.ref),
        usage=to_wire(Usage, verdict.usage),
        limits=to_wire(Limits, verdict.limits),
    )


def _shared(wire: type, value: type) -> list[tuple[str, str]]:
    """Return the fields that both have: the name on the wire, and the attribute."""
    if (wire, value) not in _SHARED:
        names = {field.name for field in dataclasses.fields(wire)}
        attributes = [(_camel(field.name), field.name) for field in dataclasses.fields(value)]
        _SHARED[wire, value] = [(name, attribute) for name, attribute in attributes if name in names]
    return _SHARED[wire, value]


def from_wire(target: type[_T], value: Any) -> _T:
    """Return ``value``, one of the classes above, as the dataclass ``target`` of agentcg.model.

    An absent field takes the default of ``target``.
    """
    names = {_camel(field.name): field.name for field in dataclasses.fields(target)}  # type: ignore[arg-type]
    given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return target(**{names[name]: item for name, item in given.items() if name in names and item is not None})
