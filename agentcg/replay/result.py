# SPDX-License-Identifier: Apache-2.0
"""What a live replay came to: plain values, and their JSON as docs/replay.md describes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from agentcg.jsonkeys import camel_keys, snake_keys
from agentcg.replay.plan import SessionPlan
from agentcg.replay.served.conversation import Answer
from agentcg.trace.source import convert

__all__ = ["ArmName", "ArmResult", "CallResult", "Latency", "SessionResult", "State", "TurnsResult"]
__all__ += ["arm_from_json", "arm_to_json", "known_sum", "latency", "result_of", "to_json", "turns_of"]

ArmName: TypeAlias = str
"""``none`` and ``agentcg`` are those of ``agentcg replay``; a bench has more."""

State = Literal["finished", "died", "refused", "timed_out", "unanswered"]
"""``died``: the agent's own process did, and all that was left of the session with it. ``refused``: it was never let
in. ``timed_out``: the replay's own time limit came first. ``unanswered``: the LLM server did not answer a turn."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """A call that failed."""

    id: str
    command: str
    outcome: str
    """As in a verdict; ``lost`` if its agent died under it."""
    advice: str = ""
    """What the agent was told; empty where nobody tells it anything."""


@dataclass(frozen=True, slots=True)
class Latency:
    """What something took."""

    n: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    max_ms: float | None = None
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class TurnsResult:
    """What an LLM server's answers took, and what prompts they were to. What it does not say is None."""

    n: int
    mean_sec: float | None
    p95_sec: float | None
    """Nearest rank."""
    prompt_tokens: int | None
    """Of all prompts together."""
    cached_tokens: int | None
    """Of these, found in the server's cache."""

    @property
    def computed_tokens(self) -> int | None:
        """The others."""
        if self.prompt_tokens is None or self.cached_tokens is None:
            return None
        return self.prompt_tokens - self.cached_tokens


@dataclass(slots=True)
class SessionResult:
    """How one session went."""

    name: str
    recording: str
    protected: bool
    reserve: int | None
    state: State
    completion_sec: float
    """From its start to its end, whichever it was."""
    recorded_sec: float
    """The recorded length at the replay's speed."""
    calls_recorded: int
    calls_started: int
    failed: list[CallResult]
    growth: Latency
    """Of the growth steps."""
    boundaries: Latency
    """Of beginning and ending a call, both together."""
    oom_kills_agent: int
    oom_kills_call: int
    reason: str = ""
    """Why it did not finish."""
    grown: int = 0
    """What all growth steps came to, bytes: less than recorded, if it died before."""
    turns: TurnsResult | None = None
    """Those that were answered; None without an LLM server."""

    @property
    def ratio(self) -> float | None:
        """Completion time over recorded time; None unless it finished."""
        return self.completion_sec / self.recorded_sec if self.state == "finished" and self.recorded_sec else None


@dataclass(slots=True)
class ArmResult:
    """How all sessions went under one arm."""

    arm: ArmName
    memory_max: int
    speed: float
    wall_sec: float
    sessions: list[SessionResult] = field(default_factory=list)
    memory_peak: int | None = None
    """Of all sessions together, as the kernel counted."""
    oom_kills: int | None = None
    """Processes that the OOM killer ended, as the kernel counted."""


def latency(seconds: Sequence[float]) -> Latency:
    """Return the statistics of times: nearest-rank percentiles, so each is one that was seen."""
    if not seconds:
        return Latency(0)
    ordered = sorted(time * 1e3 for time in seconds)

    def rank(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return Latency(len(ordered), rank(0.5), rank(0.95), ordered[-1], sum(ordered))


def turns_of(answers: Sequence[Answer]) -> TurnsResult:
    """Return what the turns of a session came to."""
    took = latency([answer.sec for answer in answers])
    mean, p95 = (None, None) if took.p95_ms is None else (took.total_ms / took.n / 1e3, took.p95_ms / 1e3)
    prompt = known_sum(answer.prompt_tokens for answer in answers)
    return TurnsResult(took.n, mean, p95, prompt, known_sum(answer.cached_tokens for answer in answers))


def known_sum(counts: Iterable[int | None]) -> int | None:
    """Return the sum; None if a part of it is not known."""
    found = 0
    for count in counts:
        if count is None:
            return None
        found += count
    return found


def result_of(
    plan: SessionPlan,
    speed: float,
    *,
    state: State | None,
    completion_sec: float,
    calls_started: int,
    failed: list[CallResult],
    growth: Sequence[tuple[int, float]],
    boundaries: Sequence[float],
    oom_kills_agent: int,
    oom_kills_call: int,
    reason: str,
    turns: TurnsResult | None = None,
) -> SessionResult:
    """Return how a session went that was replayed at ``speed`` times its pace.

    :param state: None if the time limit came first
    :param growth: bytes and seconds of each step
    :param boundaries: seconds
    """
    return SessionResult(
        name=plan.name,
        recording=plan.recording,
        protected=plan.reserve is not None,
        reserve=plan.reserve,
        state=state or "timed_out",
        completion_sec=completion_sec,
        recorded_sec=plan.duration_sec / speed,
        calls_recorded=len(plan.calls),
        calls_started=calls_started,
        failed=failed,
        growth=latency([sec for _, sec in growth]),
        boundaries=latency(boundaries),
        oom_kills_agent=oom_kills_agent,
        oom_kills_call=oom_kills_call,
        reason=reason,
        grown=sum(size for size, _ in growth),
        turns=turns,
    )


def to_json(results: Sequence[tuple[int, ArmResult]], **run: Any) -> dict[str, Any]:
    """Return the result of a whole run, ready for JSON: each arm with the number of its round. ``run`` describes it."""
    arms = [{"round": number, **arm_to_json(arm)} for number, arm in results]
    return {"type": "agentcg.replay", "version": 1, **camel_keys(run), "arms": arms}


def arm_to_json(result: ArmResult) -> dict[str, Any]:
    """Return how one arm went, ready for JSON."""
    arm: dict[str, Any] = camel_keys(dataclasses.asdict(result))
    for session, value in zip(arm["sessions"], result.sessions, strict=True):
        session["ratio"] = value.ratio
        if value.turns is None:
            del session["turns"]
    return arm


def arm_from_json(place: str, arm: dict[str, Any]) -> ArmResult:
    """Return what :func:`arm_to_json` was given. :raises InvalidInput: naming the field that is wrong"""
    return convert(place, snake_keys(arm), ArmResult)
