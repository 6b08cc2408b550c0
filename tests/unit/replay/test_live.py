# SPDX-License-Identifier: Apache-2.0
"""Rounds of a live replay, with real processes in cgroups that limit nothing: what is kept of each arm."""

import os
import shutil
import signal
from dataclasses import replace

import pytest

from agentcg.cli.replay_inputs import describe
from agentcg.errors import AgentcgError, Unsupported
from agentcg.replay import live
from agentcg.replay.arm_spec import parse_arm
from agentcg.replay.events import CallBegan, CallEnded, Frozen, Killed, Limits, Sample, SessionBegan, SessionEnded
from agentcg.replay.plan import make_plan, protect
from agentcg.replay.run_folder import RunFolder, open_run, read_run
from agentcg.trace.model import RecordedCall, Recording
from agentcg.trace.model import Sample as RecordedSample

MB = 1_000_000
TOTAL = 120 * MB


def plan(name, *, protected=False):
    calls = (RecordedCall("c1", "Bash", "ls", 1.0, 2.0), RecordedCall("c2", "Bash", "pytest", 2.5, 4.0))
    samples = tuple(RecordedSample(at, size * MB, 0) for at, size in ((0, 2), (2, 2), (3, 5), (4, 2), (5, 2)))
    made = make_plan(Recording(name, 0.0, calls, samples), name)
    return protect(made, 40 * MB) if protected else made


PLANS = [plan("high", protected=True), plan("low"), plan("other")]


def options(*arms, **changes):
    return replace(live.Options(TOTAL, tuple(map(parse_arm, arms)), speed=20.0, timeout_sec=30.0), **changes)


def folder_for(path, chosen):
    common = {"cpus": 1, "memory_max": TOTAL, "speed": 20.0, "seed": chosen.seed, "rounds": chosen.rounds}
    return open_run(path, describe("live", PLANS, chosen.arms, **common), resume=True)


@pytest.mark.timeout(120)
def test_each_arm_has_its_turn_in_each_round_and_its_events_are_kept(host, tmp_path):
    chosen = options("none", "static", "high-only", rounds=2, seed=3)
    told = []
    live.replay(PLANS, chosen, folder_for(tmp_path / "run", chosen), lambda text, share: told.append((text, share)))

    run = read_run(tmp_path / "run")
    assert sorted((done.round, done.arm) for done in run.results) == [
        (number, arm) for number in (0, 1) for arm in ("high-only", "none", "static")
    ]
    assert [session.state for done in run.results for session in done.result.sessions] == ["finished"] * 18
    assert all(0.2 < done.result.wall_sec <= done.wall_sec for done in run.results)
    assert told[-1] == ("round 2 of 2, " + live.title_of(run.results[-1].arm), 1.0)
    assert [share for _, share in told] == sorted(share for _, share in told)

    events = list(run.events(0, "none"))
    assert [event.t for event in events] == sorted(event.t for event in events)
    low = [event for event in events if getattr(event, "session", None) == "low"]
    assert [type(event) for event in low] == [SessionBegan, CallBegan, CallEnded, CallBegan, CallEnded, SessionEnded]
    assert low[1] == CallBegan(low[1].t, "low", "c1", "Bash", "ls")
    assert low[4] == CallEnded(low[4].t, "low", "c2", "ok", "")
    assert low[5] == SessionEnded(low[5].t, "low", "finished", "")
    samples = [event for event in events if isinstance(event, Sample)]
    assert len(samples) >= 2
    assert samples[-1].memory.keys() == samples[-1].cpu.keys() == {"high", "low", "other"}
    assert list(host.top.glob("none*")) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("arm", "high", "maximum"),
    [
        ("none", (None, None, None), (None, None, None)),
        ("static", (None, None, None), (40 * MB, 40 * MB, 40 * MB)),
        ("high-only", (None, 40 * MB, 40 * MB), (None, None, None)),
    ],
)
def test_the_limits_of_an_arm_are_in_its_events(host, tmp_path, arm, high, maximum):
    chosen = options(arm)
    live.replay(PLANS, chosen, folder_for(tmp_path, chosen))
    limits = [event for event in read_run(tmp_path).events(0, arm) if isinstance(event, Limits)][-1]
    names = [plan.name for plan in PLANS]
    assert limits.high == dict(zip(names, high, strict=True))
    assert limits.max == dict(zip(names, maximum, strict=True))
    assert (limits.wall, limits.reserved) == (TOTAL, 0)


@pytest.mark.timeout(60)
def test_the_loop_runs_beside_the_sessions_if_there_is_pressure_to_go_by(host, tmp_path, monkeypatch):
    chosen = options("psi-loop")
    with pytest.raises(Unsupported, match=r"memory\.pressure") as caught:
        live.replay(PLANS, chosen, folder_for(tmp_path, chosen))
    assert "psi=1" in caught.value.hint
    shutil.rmtree(host.top / "none")

    def populate(directory, populate=host.populate):
        """All is nearly full from the beginning."""
        populate(directory)
        (directory / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        (directory / "memory.current").write_text(f"{round(0.92 * TOTAL)}\n")
        (directory / "memory.pressure").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")

    monkeypatch.setattr(host, "populate", populate)
    live.replay(PLANS, chosen, folder_for(tmp_path, chosen))
    run = read_run(tmp_path)
    assert [session.state for session in run.results[0].result.sessions] == ["finished"] * 3
    frozen = [event for event in run.events(0, "psi-loop") if isinstance(event, Frozen)]
    assert "other" in [event.session for event in frozen]
    assert "high" not in [event.session for event in frozen]
    assert {event.why for event in frozen} == {"by the loop"}


@pytest.mark.timeout(60)
def test_what_has_finished_is_not_run_again(host, tmp_path):
    chosen = options("none", "static", rounds=2, seed=1)
    live.replay(PLANS, chosen, folder_for(tmp_path, chosen))
    results = tmp_path / "results.jsonl"
    *kept, last = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(kept) + last[:20])
    before = read_run(tmp_path).results

    live.replay(PLANS, chosen, folder_for(tmp_path, chosen))
    after = read_run(tmp_path).results
    assert after[:3] == before
    assert len(after) == 4
    live.replay(PLANS, chosen, folder_for(tmp_path, chosen))
    assert read_run(tmp_path).results == after


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_keeps_what_has_finished_and_says_how_to_go_on(host, offspring, tmp_path, number):
    chosen = options("none", "static", speed=5.0)
    folder = folder_for(tmp_path, chosen)

    def interrupt(text, share):
        if len(folder.results) == 1 and share > 0.5:
            os.kill(os.getpid(), number)

    with pytest.raises(AgentcgError, match="interrupted") as caught:
        live.replay(PLANS, chosen, folder, interrupt)
    assert "--resume" in caught.value.hint
    assert [done.arm for done in read_run(tmp_path).results] == ["none"]
    assert offspring() == []
    live.replay(PLANS, chosen, folder_for(tmp_path, chosen))
    assert [done.arm for done in read_run(tmp_path).results] == ["none", "static"]


@pytest.mark.timeout(60)
def test_who_was_killed_is_in_the_events(host, offspring):
    kept = []
    folder = RunFolder()
    folder.append = lambda done, events: kept.extend([done, *sorted(events, key=lambda event: event.t)])

    def kill(text, share):
        if share < 1:
            for child in offspring():
                child.kill()

    live.replay([plan("low")], options("none", speed=1.0), folder, kill)
    done, *events = kept
    assert [session.state for session in done.result.sessions] == ["died"]
    told = [event for event in events if not isinstance(event, (Sample, Limits))]
    assert Killed(told[1].t, "low", None, "the OOM killer ended its agent") in told
    assert told[-1] == SessionEnded(told[-1].t, "low", "died", "the OOM killer ended its agent")
