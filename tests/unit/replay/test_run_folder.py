# SPDX-License-Identifier: Apache-2.0
"""A run's folder: written, interrupted anywhere, gone on with, and read."""

import json
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.replay.events import CallBegan, Held, SessionBegan
from agentcg.replay.result import ArmResult, CallResult, SessionResult, latency
from agentcg.replay.run_description import RunDescription, SessionDescription
from agentcg.replay.run_folder import FinishedArm, open_run, read_run

DESCRIPTION = RunDescription(
    mode="simulated",
    agentcg="1",
    kernel="k",
    cpus=2,
    machine="m",
    memory_max=1 << 30,
    speed=20.0,
    seed=7,
    rounds=2,
    arms=["none", "agentcg=a/b.toml"],
    sessions=[SessionDescription("high", "r", True, 5, 4, 3.0, 2)],
    options={"timeoutSec": 60.0},
)


def arm(name, state="finished"):
    session = SessionResult(
        name="high",
        recording="r",
        protected=True,
        reserve=5,
        state=state,
        completion_sec=2.0,
        recorded_sec=1.0,
        calls_recorded=2,
        calls_started=1,
        failed=[CallResult("c", "ls", "oom_killed", "")],
        growth=latency([0.1]),
        boundaries=latency([]),
        oom_kills_agent=0,
        oom_kills_call=1,
        grown=9,
    )
    return ArmResult(name, 1 << 30, 20.0, 3.0, [session], 100, None)


def done(number, name, state="finished"):
    return FinishedArm(number, name, arm(name, state), 3.25)


def test_what_was_written_is_read(tmp_path):
    folder = open_run(tmp_path / "a" / "run", DESCRIPTION)
    late = [Held(2.0, "high", "c"), SessionBegan(0.0, "high"), CallBegan(1.0, "high", "c", "Bash", "ls")]
    folder.append(done(0, "agentcg=a/b.toml"), late)
    folder.append(done(0, "none", "died"), [])
    assert folder.has(0, "none")
    assert not folder.has(1, "none")

    run = read_run(tmp_path / "a" / "run")
    assert run.description == DESCRIPTION
    assert run.results == folder.results == [done(0, "agentcg=a/b.toml"), done(0, "none", "died")]
    assert list(run.events(0, "agentcg=a/b.toml")) == [late[1], late[2], late[0]]
    assert list(run.events(0, "none")) == []
    assert run.warnings == []
    assert sorted(path.name for path in (run.path / "events").iterdir()) == ["0-agentcg-a-b.toml.jsonl", "0-none.jsonl"]
    with pytest.raises(InvalidInput, match=r"1-none\.jsonl: cannot be read"):
        list(run.events(1, "none"))


def test_finished_arms_are_put_in_order(tmp_path):
    folder = open_run(tmp_path, DESCRIPTION)
    folder.sort(DESCRIPTION.arms)
    for number, name in ((1, "agentcg=a/b.toml"), (0, "agentcg=a/b.toml"), (1, "none"), (0, "none")):
        folder.append(done(number, name), [])
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines()
    folder.sort(DESCRIPTION.arms)
    assert (tmp_path / "results.jsonl").read_bytes().splitlines() == [lines[at] for at in (3, 1, 2, 0)]
    assert (
        folder.results
        == read_run(tmp_path).results
        == [done(number, name) for number in (0, 1) for name in DESCRIPTION.arms]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events", "results.jsonl", "run.json"]


def test_the_files_have_the_names_of_the_socket(tmp_path):
    open_run(tmp_path, DESCRIPTION).append(done(0, "none"), [])
    described = json.loads((tmp_path / "run.json").read_text())
    assert (described["type"], described["version"], described["memoryMax"]) == ("agentcg.run", 1, 1 << 30)
    assert described["sessions"][0]["recordedSec"] == 3.0
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert (line["round"], line["arm"], line["wallSec"]) == (0, "none", 3.25)
    assert line["result"]["sessions"][0]["completionSec"] == 2.0
    assert line["result"]["sessions"][0]["ratio"] == 2.0


def test_a_run_is_gone_on_with_only_if_asked_for(tmp_path):
    open_run(tmp_path, DESCRIPTION).append(done(0, "none"), [])
    with pytest.raises(InvalidInput, match="a run is there already") as caught:
        open_run(tmp_path, DESCRIPTION)
    assert "--resume" in caught.value.hint
    assert open_run(tmp_path, DESCRIPTION, resume=True).has(0, "none")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 8}, r"run\.json: seed: is 7 in the run that is there, and 8 now"),
        ({"arms": ["none"]}, r"arms: is \[\"none\",\"agentcg=a/b\.toml\"\] in .* and \[\"none\"\] now"),
        ({"options": {"timeoutSec": 90.0}}, r"options\.timeoutSec: is 60\.0 in .* and 90\.0 now"),
        ({"options": {"timeoutSec": 60.0, "draw": 3}}, r"options\.draw: is null in .* and 3 now"),
        ({"sessions": None}, r"sessions: is \[.* and null now"),
        (
            {"sessions": [SessionDescription("high", "r", False, None, 4, 3.0, 2)]},
            r"sessions\[0\]\.protected: is true in .* and false now",
        ),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path, change, said):
    open_run(tmp_path, DESCRIPTION)
    with pytest.raises(InvalidInput, match=said):
        open_run(tmp_path, msgspec.structs.replace(DESCRIPTION, **change), resume=True)


def test_when_it_began_may_differ(tmp_path):
    open_run(tmp_path, DESCRIPTION)
    assert open_run(tmp_path, msgspec.structs.replace(DESCRIPTION, created="later"), resume=True).results == []


def test_a_torn_last_line_is_left_out_and_said_and_written_again(tmp_path):
    folder = open_run(tmp_path, DESCRIPTION)
    folder.append(done(0, "none"), [])
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    for cut in (1, len(whole) // 2, len(whole)):
        results.write_bytes(whole + whole[:-cut])
        run = read_run(tmp_path)
        assert run.results == [done(0, "none")]
        assert len(run.warnings) == (cut < len(whole))
    results.write_bytes(whole + whole[:10])
    folder = open_run(tmp_path, DESCRIPTION, resume=True)
    folder.append(done(1, "none"), [])
    run = read_run(tmp_path)
    assert ([(item.round, item.arm) for item in run.results], run.warnings) == ([(0, "none"), (1, "none")], [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nonsense\n", r"results\.jsonl:1: not JSON"),
        (b'{"round": 0, "arm": "none", "result": {}}\n', r"results\.jsonl:1: .*wallSec"),
        (b'{"round": 0, "arm": "none", "result": {}, "wallSec": 1}\n', r"results\.jsonl:1: result: .*`arm`"),
    ],
)
def test_a_wrong_line_is_refused(tmp_path, line, said):
    open_run(tmp_path, DESCRIPTION)
    (tmp_path / "results.jsonl").write_bytes(line)
    with pytest.raises(InvalidInput, match=said):
        read_run(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"run\.json: cannot be read") as caught:
        read_run(tmp_path)
    assert "-o" in caught.value.hint
    (tmp_path / "run.json").write_text('{"type": "agentcg.recording"}')
    with pytest.raises(InvalidInput, match=r"run\.json: type: Invalid value 'agentcg\.recording'"):
        read_run(tmp_path)
    newer = json.loads(msgspec.json.encode(DESCRIPTION)) | {"version": 2}
    (tmp_path / "run.json").write_text(json.dumps(newer))
    with pytest.raises(InvalidInput, match="has format version 2, this agentcg reads version 1"):
        read_run(tmp_path)


def test_results_of_nobody_knows_what_are_not_added_to(tmp_path):
    open_run(tmp_path, DESCRIPTION).append(done(0, "none"), [])
    (tmp_path / "run.json").unlink()
    with pytest.raises(InvalidInput, match=r"there are results without run\.json"):
        open_run(tmp_path, DESCRIPTION, resume=True)


def test_arms_that_would_share_a_file_are_refused(tmp_path):
    both = msgspec.structs.replace(DESCRIPTION, arms=["agentcg=a/b.toml", "agentcg=a-b.toml"])
    with pytest.raises(InvalidInput, match=r"--arm: agentcg=a/b\.toml and agentcg=a-b\.toml would have the same file"):
        open_run(tmp_path / "run", both)
    assert not (tmp_path / "run").exists()


def test_where_nothing_can_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AgentcgError, match=r"file.*: Not a directory") as caught:
        open_run(tmp_path / "file" / "run", DESCRIPTION)
    assert "another -o" in caught.value.hint


WRITER = """
import sys
from itertools import count
from pathlib import Path
import msgspec
from agentcg.replay.events import SessionBegan
from agentcg.replay.run_folder import FinishedArm, open_run, read_run

folder = open_run(Path(sys.argv[1]), read_run(Path(sys.argv[1])).description, resume=True)
first = folder.results[0].result
for number in count(len(folder.results)):
    folder.append(FinishedArm(number, "none", first, 1.0), [SessionBegan(0.0, "high")] * 50)
"""


@pytest.mark.timeout(60)
def test_killed_at_any_time_nothing_that_had_finished_is_lost(tmp_path):
    open_run(tmp_path, DESCRIPTION).append(done(0, "none"), [SessionBegan(0.0, "high")] * 50)
    before = 1
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=os.getcwd())
        deadline = time.monotonic() + 15
        while len(read_run(tmp_path).results) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.002)
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=10)
        run = read_run(tmp_path)
        assert [item.round for item in run.results] == list(range(len(run.results)))
        assert len(run.results) >= before + 3
        assert all(len(list(run.events(item.round, "none"))) == 50 for item in run.results)
        before = len(run.results)
