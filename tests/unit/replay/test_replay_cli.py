# SPDX-License-Identifier: Apache-2.0
"""``agentcg replay live`` and ``agentcg record`` from outside, where they refuse."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentcg.api.client import RemoteError
from agentcg.cli.record import record
from agentcg.cli.replay import replay
from agentcg.errors import InvalidInput, Unsupported
from agentcg.replay import host
from agentcg.replay.result import ArmResult, SessionResult, latency
from agentcg.replay.run_folder import FinishedArm, read_run
from agentcg.trace.format import write
from agentcg.trace.model import RecordedCall, Recording, Sample

ATTEMPT = Path(__file__).parents[2] / "data" / "agentcgroup" / "made_up_set" / "example__task-1" / "attempt_1"
HYBRID = "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n31 24 0:27 / /m rw - cgroup cgroup rw,memory\n"
UNIFIED = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(item) for item in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def recording(tmp_path):
    calls = (RecordedCall("a", "Bash", "true", 0.0, 1.0),)
    write(Recording("r", 0.0, calls, (Sample(0, 1000, 0), Sample(1, 1000, 0))), tmp_path / "r.jsonl")
    return tmp_path / "r.jsonl"


@pytest.fixture
def mounts(monkeypatch):
    def set_mounts(text):
        monkeypatch.setattr(host.Path, "read_text", lambda path, *a, **k: text)

    return set_mounts


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.jsonl: there is no such file or directory"):
        run(replay, "live", tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="nothing of a known format is here"):
        run(replay, "live", tmp_path)


def test_no_recording_is_a_usage_error():
    assert "Missing argument" in run(replay, "live").output


def test_a_name_or_size_that_is_none(recording):
    with pytest.raises(InvalidInput, match=r"session: 'a\.b' is not a name"):
        run(replay, "live", f"a.b={recording}")
    with pytest.raises(InvalidInput, match=r"--memory-max: '1\.5g' is not a size"):
        run(replay, "live", "--memory-max", "1.5g", recording)
    with pytest.raises(InvalidInput, match=r"--protect: there is no session 'x' \(there are r, r-2\)"):
        run(replay, "live", "--protect", "x", recording, recording)
    with pytest.raises(InvalidInput, match=r"--protect r: '0' is out of range"):
        run(replay, "live", "--protect", "r:0", recording)


def test_a_host_with_cgroup_v1_is_refused(recording, mounts, tmp_path, monkeypatch):
    monkeypatch.setattr("agentcg.replay.live.load_path", lambda: "/bin/true")
    monkeypatch.setattr("agentcg.cli.replay.plans_of", lambda *_: [])
    mounts(HYBRID)
    with pytest.raises(Unsupported, match="the memory controller belongs to cgroup v1") as caught:
        run(replay, "live", recording)
    assert "virtual machine" in caught.value.hint
    mounts("")
    with pytest.raises(Unsupported, match="no cgroup v2 is mounted here"):
        run(replay, "live", recording)


def test_without_root_it_is_refused(recording, mounts, monkeypatch):
    monkeypatch.setattr("agentcg.replay.live.load_path", lambda: "/bin/true")
    monkeypatch.setattr("agentcg.cli.replay.plans_of", lambda *_: [])
    monkeypatch.setattr(host.os, "geteuid", lambda: 1000)
    mounts(UNIFIED)
    with pytest.raises(Unsupported, match="takes root") as caught:
        run(replay, "live", recording)
    assert "sudo" in caught.value.hint


def test_an_attempt_directory_is_a_recording(mounts, monkeypatch):
    monkeypatch.setattr("agentcg.replay.live.load_path", lambda: "/bin/true")
    seen = []
    monkeypatch.setattr("agentcg.cli.replay.run_live", lambda plans, *_: seen.extend(plans) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(replay, "live", "--protect", "x:9M", f"x={ATTEMPT}", ATTEMPT)
    assert [plan.name for plan in seen] == ["x", "made_up_set-example__task-1-attempt_1"]
    assert [plan.reserve for plan in seen] == [9 << 20, None]


def test_record_needs_a_daemon(tmp_path):
    with pytest.raises(RemoteError, match=r"no daemon at .*gone\.sock: No such file or directory") as caught:
        run(record, "--socket", tmp_path / "gone.sock", "-o", tmp_path / "out.jsonl", "--", "true")
    assert "agentcg daemon" in caught.value.hint
    assert not (tmp_path / "out.jsonl").exists()


def test_an_arm_that_is_none_and_a_folder_that_is_not_there(recording):
    with pytest.raises(InvalidInput, match="--arm: there is no arm 'loop'"):
        run(replay, "live", "--arm", "loop", recording)
    with pytest.raises(InvalidInput, match="--resume: there is no folder to go on with"):
        run(replay, "live", "--resume", recording)


def test_the_run_is_described_and_its_rounds_are_shown_and_written(recording, tmp_path, monkeypatch):
    def live(plans, options, folder, progress):
        seen.append(options)
        for number in range(options.rounds):
            for spec in options.arms[::-1]:
                session = SessionResult(
                    name=plans[0].name,
                    recording="r",
                    protected=False,
                    reserve=None,
                    state="finished",
                    completion_sec=2.0,
                    recorded_sec=1.0,
                    calls_recorded=1,
                    calls_started=1,
                    failed=[],
                    growth=latency([]),
                    boundaries=latency([]),
                    oom_kills_agent=0,
                    oom_kills_call=0,
                )
                folder.append(FinishedArm(number, spec.name, ArmResult(spec.name, 1, 1.0, 1.0, [session]), 1.0), [])

    seen = []
    monkeypatch.setattr("agentcg.cli.replay.run_live", live)
    arguments = ["--arm", "static", "--arm", "agentcg", "--policy", "p.toml", "--rounds", 2, "--seed", 5, "-o"]
    result = run(replay, "live", *arguments, tmp_path / "run", "--json", tmp_path / "out.json", recording)
    assert "2 rounds of 1 sessions" in result.stdout
    assert [(spec.name, spec.policy) for spec in seen[0].arms] == [("static", "default"), ("agentcg", "p.toml")]

    description = read_run(tmp_path / "run").description
    assert (description.mode, description.arms, description.seed) == ("live", ["static", "agentcg"], 5)
    assert description.options == {"policy": "p.toml", "agentMemory": 0, "timeoutSec": 600.0, "warmUp": False}
    assert [session.name for session in description.sessions or ()] == ["r"]
    written = json.loads((tmp_path / "out.json").read_text())
    assert [(arm["round"], arm["arm"]) for arm in written["arms"]] == [
        (number, arm) for number in (0, 1) for arm in ("static", "agentcg")
    ]
    with pytest.raises(InvalidInput, match=r"run\.json: options\.policy: is \"p\.toml\" in .* and \"default\" now"):
        run(replay, "live", *arguments[:4], *arguments[6:], tmp_path / "run", "--resume", recording)


def test_what_is_for_a_server_needs_one(recording):
    for option, value in (
        ("--model", "m"),
        ("--engine", "none"),
        ("--server-tokens", "100"),
        ("--server-timeout", "1s"),
    ):
        with pytest.raises(InvalidInput, match=f"{option}: there is no server"):
            run(replay, "live", option, value, recording)


def test_a_server_needs_turns_and_a_url(recording):
    with pytest.raises(InvalidInput, match=r"--server: '127\.0\.0\.1' is not a URL"):
        run(replay, "live", "--server", "127.0.0.1", recording)
    with pytest.raises(
        InvalidInput, match="r: its recording does not say what was asked of a language model"
    ) as caught:
        run(replay, "live", "--server", "http://127.0.0.1:1", recording)
    assert "turns.json" in caught.value.hint


def test_a_run_with_a_server_says_which_and_how_it_is_asked(tmp_path, monkeypatch):
    attempt = Path(shutil.copytree(ATTEMPT, tmp_path / "attempt_1"))
    row = {"last_at": "2023-11-14T22:13:22.400Z", "prompt_tokens": 9000, "output_tokens": 1000}
    (attempt / "turns.json").write_text(json.dumps([row]))
    monkeypatch.setattr("agentcg.cli.replay.run_live", lambda *_: None)
    monkeypatch.setattr("agentcg.cli.replay.show", lambda *_, **__: None)
    server = (
        "--server",
        "http://127.0.0.1:8080/v1/",
        "--model",
        "m",
        "--engine",
        "llamacpp",
        "--server-tokens",
        "2000",
    )
    run(replay, "live", *server, "-o", tmp_path / "run", attempt)
    description = read_run(tmp_path / "run").description
    assert description.mode == "served"
    assert description.options["server"] == {
        "url": "http://127.0.0.1:8080",
        "model": "m",
        "engine": "llamacpp",
        "contextMax": 2000,
        "timeoutSec": 300.0,
    }
