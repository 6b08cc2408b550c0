# SPDX-License-Identifier: Apache-2.0
"""Rounds of simulated replays, and ``agentcg replay simulated`` from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from random import Random

import pytest
from click.testing import CliRunner

from agentcg.cli.replay import replay
from agentcg.errors import AgentcgError, InvalidInput
from agentcg.replay import simulated
from agentcg.replay.arm_spec import parse_arm
from agentcg.replay.events import CallBegan, SessionBegan
from agentcg.replay.events import Sample as SampleEvent
from agentcg.replay.plan import make_plan
from agentcg.replay.run_folder import RunFolder, read_run
from agentcg.replay.simulation.host import SimulatedHost
from agentcg.trace.format import write
from agentcg.trace.model import RecordedCall, Recording, Sample

MB = 1_000_000


def recording(name, size):
    calls = (RecordedCall("c1", "Bash", "ls", 1.0, 2.0), RecordedCall("c2", "Bash", "pytest", 2.5, 4.0))
    held = ((0, 20), (2, 20), (3, size), (4, 20), (5, 20))
    return Recording(name, 0.0, calls, tuple(Sample(at, held * MB, 0.1 * at) for at, held in held))


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(6):
        write(recording(f"r{number}", 40 + 10 * number), folder / f"r{number}.jsonl")
    return folder


def run(*arguments):
    command = ["simulated", "--memory-max", "150M", "--arm", "none", "--arm", "static", *map(str, arguments)]
    result = CliRunner().invoke(replay, command, terminal_width=200)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def found(path):
    """Everything but how long it took to simulate."""
    return {(done.round, done.arm): done.result for done in read_run(path).results}


# What is drawn


def test_a_round_draws_none_twice_and_protects_the_first():
    plans = [make_plan(recording(f"r{number}", 50), f"r{number}") for number in range(6)]
    rounds = [simulated.drawn(plans, 4, Random(number)) for number in range(40)]
    assert all(len({plan.name for plan in chosen}) == 4 for chosen in rounds)
    assert all([plan.reserve is not None for plan in chosen] == [True, False, False, False] for chosen in rounds)
    assert {chosen[0].name for chosen in rounds} == {plan.name for plan in plans}
    assert simulated.drawn(plans, None, Random(1)) == plans


@pytest.mark.timeout(60)
def test_all_arms_of_a_round_have_the_same_sessions_and_the_seed_says_which(recordings, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("--rounds", 5, "--draw", 3, "--seed", seed, "-o", tmp_path / name, recordings)
    names = {
        key: [(session.name, session.protected) for session in result.sessions]
        for key, result in found(tmp_path / "a").items()
    }
    assert all(names[number, "none"] == names[number, "static"] for number in range(5))
    assert len({tuple(names[number, "none"]) for number in range(5)}) > 1
    assert found(tmp_path / "a") == found(tmp_path / "b") != found(tmp_path / "c")
    assert read_run(tmp_path / "a").description.sessions is None


# What is kept


@pytest.mark.timeout(60)
def test_events_and_results_are_kept(recordings, tmp_path):
    result = run("-o", tmp_path / "run", "--json", tmp_path / "out.json", "--protect", "r0", "--cpus", 4, recordings)
    assert "6 sessions at 20 times the recorded pace" in result.stdout
    described = read_run(tmp_path / "run").description
    assert (described.mode, described.cpus, described.rounds) == ("simulated", 4, 1)
    assert [session.name for session in described.sessions or ()] == [f"r{number}" for number in range(6)]
    assert [session.protected for session in described.sessions or ()] == [True] + [False] * 5
    events = list(read_run(tmp_path / "run").events(0, "static"))
    assert [event.t for event in events] == sorted(event.t for event in events)
    assert sum(isinstance(event, SessionBegan) for event in events) == 6
    assert any(isinstance(event, CallBegan) for event in events)
    assert 1 < sum(isinstance(event, SampleEvent) for event in events) <= 600
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["type"], [arm["arm"] for arm in written["arms"]]) == ("agentcg.replay", ["none", "static"])


@pytest.mark.timeout(60)
def test_many_rounds_are_shown_as_medians_and_written_by_their_numbers(recordings, tmp_path):
    result = run("--rounds", 3, "--json", tmp_path / "out.json", recordings)
    assert "3 rounds of 6 sessions" in result.stdout
    arms = json.loads((tmp_path / "out.json").read_text())["arms"]
    wanted = [(number, arm) for number in range(3) for arm in ("none", "static")]
    assert [(arm["round"], arm["arm"]) for arm in arms] == wanted


@pytest.mark.timeout(120)
def test_killed_and_gone_on_with_it_comes_to_the_same(recordings, tmp_path):
    options = ["--memory-max", "150M", "--arm", "none", "--arm", "static", "--rounds", "60", "--draw", "4"]
    command = ["replay", "simulated", *options, "-o", str(tmp_path / "cut"), str(recordings)]
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        resume = ["--resume"] if (tmp_path / "cut").exists() else []
        before = len(found(tmp_path / "cut")) if resume else 0
        process = subprocess.Popen(
            [sys.executable, "-c", "from agentcg.cli import main; main()", *command, *resume],
            cwd=os.getcwd(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        results = tmp_path / "cut" / "results.jsonl"
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            if results.exists() and results.read_bytes().count(b"\n") >= before + 3:
                break
            time.sleep(0.001)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        assert before + 3 <= len(found(tmp_path / "cut")) < 120
        if number == signal.SIGINT:
            assert f"go on with {tmp_path / 'cut'} by --resume" in said

    common = ["--rounds", 60, "--draw", 4]
    with pytest.raises(InvalidInput, match=r"run\.json: seed: is 0 in the run that is there, and 1 now"):
        run(*common, "--seed", 1, "-o", tmp_path / "cut", "--resume", recordings)
    run(*common, "-o", tmp_path / "cut", "--resume", recordings)
    run(*common, "-o", tmp_path / "whole", recordings)
    assert len(found(tmp_path / "whole")) == 120
    assert found(tmp_path / "cut") == found(tmp_path / "whole")
    for number in (0, 59):
        assert list(read_run(tmp_path / "cut").events(number, "none")) == list(
            read_run(tmp_path / "whole").events(number, "none")
        )


def test_interrupted_it_says_how_to_go_on(tmp_path):
    plans = [make_plan(recording("r", 50), "r")]
    options = simulated.SimulatedOptions(SimulatedHost(150 * MB), (parse_arm("none"),))

    def interrupt(text, share):
        raise KeyboardInterrupt

    with pytest.raises(AgentcgError, match="the simulation was interrupted") as caught:
        simulated.replay(plans, options, RunFolder(tmp_path), interrupt)
    assert caught.value.hint == f"go on with {tmp_path} by --resume"


# What is refused


def test_what_does_not_go_together_is_refused(recordings):
    with pytest.raises(InvalidInput, match=r"--protect: with --draw the first session that is drawn is protected"):
        run("--draw", 2, "--protect", "r0", recordings)
    with pytest.raises(InvalidInput, match=r"--draw: 7 cannot be drawn of 6 recordings"):
        run("--draw", 7, recordings)
    with pytest.raises(InvalidInput, match=r"--arm: there is no arm 'some'"):
        run("--arm", "some", recordings)
    with pytest.raises(InvalidInput, match=r"--resume: there is no folder to go on with"):
        run("--resume", recordings)
