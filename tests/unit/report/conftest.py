# SPDX-License-Identifier: Apache-2.0
"""Results to write tests with."""

import pytest

from agentcg.replay import events
from agentcg.replay.result import ArmResult, CallResult, Latency, SessionResult
from agentcg.replay.run_description import RunDescription, SessionDescription
from agentcg.replay.run_folder import FinishedArm, open_run


def make_session(name, sec, *, protected=False, state="finished", failed=(), oom_kills=0):
    return SessionResult(
        name=name,
        recording=name,
        protected=protected,
        reserve=100 << 20 if protected else None,
        state=state,
        completion_sec=sec,
        recorded_sec=10.0,
        calls_recorded=3,
        calls_started=3,
        failed=[CallResult(f"c{at}", command, "memory_limit", "less") for at, command in enumerate(failed)],
        growth=Latency(3, 1.0, 2.0, 3.0, 6.0),
        boundaries=Latency(3, 0.1, 0.2, 0.3, 0.6),
        oom_kills_agent=oom_kills,
        oom_kills_call=0,
    )


def make_arm(name, protected_sec, others_sec, *, died=(), timed_out=()):
    """Sessions a (protected), b, c, …: those in ``died`` did, after half of their time."""
    sessions = [make_session("a", protected_sec, protected=True)]
    sessions += [make_session(chr(ord("b") + at), sec) for at, sec in enumerate(others_sec)]
    for each in sessions:
        if each.name in died:
            each.state, each.completion_sec, each.oom_kills_agent = "died", each.completion_sec / 2, 1
        if each.name in timed_out:
            each.state = "timed_out"
    return ArmResult(name, 800 << 20, 10.0, max(each.completion_sec for each in sessions), sessions)


@pytest.fixture
def arm():
    """How one arm went in one round: arm(NAME, protected's seconds, others' seconds, died=(NAME, …))."""
    return make_arm


HOSTILE = (
    '</script><script>document.title="broken"</script><img src=x onerror="document.title=1"> "\'&%{x}<b>$title\u202e'
)


def make_events(result, *, calls=4, kv=False, command="pytest -n 8"):
    """What may have happened in an arm: each session has ``calls``, and all of them are stopped in some way."""
    names = [session.name for session in result.sessions]
    limit = None if result.arm == "none" else 300 << 20
    told = [events.Limits(0.0, result.memory_max, {}, dict.fromkeys(names, limit), 100 << 20)]
    told += [events.SessionBegan(0.0, name) for name in names]
    for session in result.sessions:
        name, step = session.name, session.completion_sec / calls
        for at in range(calls):
            call, t = f"c{at}", at * step
            told += [events.CallBegan(t + step / 4, name, call, "Bash", command)]
            told += [events.CallEnded(t + step * 0.9, name, call, "ok" if at % 4 else "memory_limit", "", 50 << 20)]
            stops = (events.Held, events.Frozen, events.Throttled, events.Killed, events.Yielded)
            if result.arm != "none" and not session.protected:
                kind = stops[at % 5]
                told += [kind(t if kind is events.Held else t + step / 2, name, call, f"{at} MiB are missing")]
                told += [events.Thawed(t + step * 0.7, name, call)] if kind is events.Frozen else []
            told += [events.Kv(t, name, at % 3, (at % 3) << 20, ("resident", "offloaded")[at % 2])] if kv else []
        told += [events.SessionEnded(session.completion_sec, name, session.state, session.reason)]
    last = max(session.completion_sec for session in result.sessions)
    for at in range(300):
        t = at * last / 300
        held = {name: (40 + 10 * ((at // 7 + 3 * index) % 25)) << 20 for index, name in enumerate(names)}
        told.append(events.Sample(t, held, dict.fromkeys(names, 0.3 * t + 0.02 * (at % 3)), sum(held.values())))
    return sorted(told, key=lambda event: event.t)


def make_description(**changes):
    given = {
        "mode": "simulated",
        "agentcg": "1.0",
        "kernel": "7.3.4",
        "cpus": 2.0,
        "machine": "x86_64",
        "memory_max": 800 << 20,
        "speed": 10.0,
        "seed": 1,
        "rounds": 7,
        "arms": ["none", "agentcg"],
        "sessions": [
            SessionDescription(
                name, f"recording-{name}", name == "a", 100 << 20 if name == "a" else None, 90 << 20, 100.0, 3
            )
            for name in "abc"
        ],
        "options": {"recordings": [HOSTILE]},
    }
    return RunDescription(**(given | changes))


@pytest.fixture
def describe():
    """A run's description: describe(mode=…, …)."""
    return make_description


@pytest.fixture
def hostile():
    """A command that does harm wherever it is taken for markup."""
    return HOSTILE


def write_run(path, *, rounds=7, calls=4, command=HOSTILE, kv=True, **changes):
    """Write a run and return its path. ``changes`` are of its description."""
    description = make_description(**changes)
    folder = open_run(path, description)
    for number in range(rounds):
        for index, name in enumerate(description.arms):
            died = ("b",) if name == "none" else ()
            result = make_arm(name, 12 - index + number / 10, [20 + number / 7, 16 + index], died=died)
            for each in result.sessions:
                each.reason = "the OOM killer ended its agent" if each.state == "died" else ""
            result.sessions[2].failed = [CallResult("c0", HOSTILE, "memory_limit", f"take {number} MiB {HOSTILE}")]
            told = make_events(result, calls=calls, command=command, kv=kv)
            folder.append(FinishedArm(number, name, result, 0.1), told)
    return path


@pytest.fixture(scope="session")
def make_run():
    """Write a run: make_run(PATH, rounds=…, **description), and return its path."""
    return write_run
