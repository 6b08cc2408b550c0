# SPDX-License-Identifier: Apache-2.0
"""What the bench ``kv_engines`` has real engines do: turns of recorded sessions, and requests to fit the costs on.

An engine has a clock of its own: the processor time that it has used, and what was skipped while it had nothing to do.
So a pause costs no time here, and what others do on the machine delays nobody; it shows in how fast a processor is.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from math import inf
from typing import Protocol

from agentcg.kv.simulation import batch
from agentcg.kv.simulation.cost import StepCost
from agentcg.kv.simulation.machine import Served
from agentcg.kv.simulation.recordings import import_script
from agentcg.kv.simulation.script import Arrival, Script, ToolCall, Turn
from benches.kv_cells import LOCAL_WAIT_SEC, recorded

__all__ = ["Answer", "Ask", "Engine", "Group", "Scale", "calibrate", "fit", "play", "work"]

TURNS = 5
"""Of each session: its first, its last, and others at equal distances."""
FEW = 2
"""Sessions that come first, and have the engine to themselves."""
CALL_SEC_MAX, AGENT_SEC = 20.0, 1.0
"""The longest pause for a call, and what an agent needs besides."""
APART_SEC, FOLLOW_SEC = 200.0, 3.0
"""When the others begin to come, and how far from each other in the mean."""
LEAST_NEW_TOKENS, ANSWER_TOKENS = 8, (2, 24)
TOKENS = range(100, 900)
"""Both models have them, and none is special."""
FITTED = ((1, 16), (3, 2), (1, 2), (3, 16))
"""What costs are fitted on: requests at once, and by how much their contexts are shorter than the longest."""


@dataclass(frozen=True)
class Scale:
    """How recordings are made small enough for an engine: factors, and the longest context in tokens."""

    tokens: float
    answers: float
    sec: float
    context: int
    many: int
    """Sessions that come later, and contend."""
    fitted: int = 1
    """How often the costs are measured, before and after."""


@dataclass(frozen=True)
class Ask:
    """A request: a whole context, and how many tokens are to follow."""

    name: str
    session: str
    prompt: Sequence[int]
    output: int
    tool: str = ""
    """What the session has called since its last turn."""
    last: bool = False
    """The engine is told that there will be no other turn."""


@dataclass(frozen=True)
class Answer:
    """What came of it. ``cached`` tokens of the prompt were not computed."""

    name: str
    tokens: Sequence[int]
    cached: int
    at: float
    """On the engine's clock."""


class Engine(Protocol):
    """A real one, on its own clock."""

    @property
    def now(self) -> float:
        """Its clock, in seconds."""
        ...

    def ask(self, asked: Ask) -> None:
        """Let a request arrive."""
        ...

    def work(self, until: float) -> list[Answer]:
        """Go on until somebody is answered, or to that time. With nothing to do, skip to it."""
        ...


@dataclass(frozen=True)
class Group:
    """Requests that arrived at once and alone: (cached, prefilled, answered) tokens of each, and seconds for all."""

    requests: tuple[tuple[int, int, int], ...]
    sec: float


@cache
def _scripts() -> dict[str, Script]:
    return {each.parent.name: import_script(each, wait_sec=LOCAL_WAIT_SEC) for each in recorded("local")}


def work(seed: int, scale: Scale) -> list[Arrival]:
    """Return the sessions of a round: two that fit, and when they are over, several that do not fit together."""
    draw, found = random.Random(seed), list[Arrival]()
    at = 0.0
    for name, script in draw.sample(sorted(_scripts().items()), len(_scripts())):
        if len(found) == FEW:
            at = max(at, APART_SEC)
        if len(found) < FEW + scale.many and (small := _small(name, script, scale)) is not None:
            found.append(Arrival(at * scale.sec, f"{len(found)}-{name}", small))
            at += draw.expovariate(1 / FOLLOW_SEC)
    return found


def _small(name: str, script: Script, scale: Scale) -> Script | None:
    """Return a session of a few turns; None if its context does not grow for as many, or grows too long."""
    grown = [turn for turn in script.turns if turn is script.turns[0] or turn.prefix_tokens]
    if len(grown) < max(TURNS, len(script.turns)):
        return None
    turns: list[Turn] = []
    left = 0
    for place in range(TURNS):
        turn = grown[round(place * (len(grown) - 1) / (TURNS - 1))]
        least, most = ANSWER_TOKENS
        output = max(least, min(most, round(turn.output_tokens * scale.answers)))
        prompt = max(left + LEAST_NEW_TOKENS, round(turn.prompt_tokens * scale.tokens))
        sec = AGENT_SEC + min(CALL_SEC_MAX, max((call.wall_sec for call in turn.calls), default=0.0))
        tool = turn.calls[0].tool if turn.calls else "call"
        turns.append(Turn(prompt, output, left, (ToolCall(tool or "call", sec * scale.sec),)))
        left = prompt + output
    return Script(name, tuple(turns)) if left <= scale.context else None


def play(engine: Engine, sessions: Iterable[Arrival], *, knows_last: bool) -> list[Served]:
    """Serve them all, and tell of every turn; times from the begin."""
    begin = engine.now
    known = {each.session: each.script.turns for each in sessions}
    contexts: dict[str, list[int]] = {name: [] for name in known}
    draws = {name: random.Random(name) for name in known}
    coming = [(begin + each.at_sec, each.session, 0) for each in sorted(sessions, key=lambda each: each.at_sec)]
    open_turns: dict[str, tuple[str, int, float]] = {}
    served: list[Served] = []
    while coming or open_turns:
        while coming and coming[0][0] <= engine.now:
            at, name, number = heappop(coming)
            turn, context = known[name][number], contexts[name]
            context += draws[name].choices(TOKENS, k=turn.prompt_tokens - len(context))
            tool = known[name][number - 1].calls[0].tool if number else ""
            last = knows_last and number == TURNS - 1
            open_turns[f"{name}-{number}"] = name, number, at
            engine.ask(Ask(f"{name}-{number}", name, tuple(context), turn.output_tokens, tool, last))
        for answer in engine.work(coming[0][0] if coming else inf):
            name, number, at = open_turns.pop(answer.name)
            contexts[name] += answer.tokens
            served.append(Served(name, number, at - begin, answer.at - begin, answer.cached))
            if number < TURNS - 1:
                pause = known[name][number].calls[0].wall_sec
                heappush(coming, (answer.at + pause, name, number + 1))
    return served


def calibrate(engine: Engine, scale: Scale, seed: str) -> list[Group]:
    """Have requests served that come one by one or a few at once, of other contexts than are played later."""
    draw = random.Random(seed)
    for number in range(2):  # What an engine does once is done then.
        _serve(engine, [Ask(f"first-{number}", f"first-{number}", draw.choices(TOKENS, k=200), 8, "call", last=True)])
    found: list[Group] = []
    for number, (at_once, shorter) in enumerate(FITTED * scale.fitted):
        asked = []
        for each in range(at_once):
            most = scale.context // shorter
            context = draw.choices(TOKENS, k=draw.randint(most // 2, most))
            found += _serve(engine, [Ask(f"fit-{number}-{each}", f"fit-{number}-{each}", context, 1)])
            context = context + draw.choices(TOKENS, k=draw.randint(16, 160))
            output = draw.randint(ANSWER_TOKENS[1] // 2, ANSWER_TOKENS[1])
            asked.append(Ask(f"fit-{number}-{each}-again", f"fit-{number}-{each}", context, output, "call", last=True))
        found += _serve(engine, asked)
    return found


def _serve(engine: Engine, asked: Sequence[Ask]) -> list[Group]:
    begin, found = engine.now, dict[str, Answer]()
    for each in asked:
        engine.ask(each)
    while len(found) < len(asked):
        found |= {answer.name: answer for answer in engine.work(inf)}
    cached = [(found[each.name].cached, len(each.prompt), each.output) for each in asked]
    requests = tuple((known, prompt - known, output) for known, prompt, output in cached)
    return [Group(requests, max(answer.at for answer in found.values()) - begin)]


def fit(groups: Sequence[Group], chunk_tokens: int) -> StepCost:
    """Return the costs whose steps take what the groups took: least squares of the relative errors, none below 0.

    What a group takes is linear in the costs, and so its steps with one cost of 1 s and all others 0 say how often that
    one counts.
    """
    import numpy

    units = [StepCost(*(float(place == one) for place in range(5))) for one in range(5)]
    rows = numpy.array([[_sec(unit, group, chunk_tokens) / group.sec for unit in units] for group in groups])
    widths = rows.max(axis=0)
    kept = [place for place in range(5) if widths[place] > 0]
    while True:
        found = numpy.linalg.lstsq(rows[:, kept] / widths[kept], numpy.ones(len(groups)), rcond=None)[0]
        if min(found) >= 0:
            break
        kept.pop(int(found.argmin()))
    costs = [0.0] * 5
    for place, cost in zip(kept, found, strict=True):
        costs[place] = float(cost / widths[place])
    return StepCost(*costs)


def _sec(cost: StepCost, group: Group, chunk_tokens: int) -> float:
    """What a group takes by these costs."""
    steps = batch.Batch(cost, chunk_tokens)
    for number, (cached, prefilled, answered) in enumerate(group.requests):
        steps.add(batch.Sequence(str(number), cached, prefilled, answered))
    took = 0.0
    while steps:
        took += steps.advance(inf)[0]
    return took
