# SPDX-License-Identifier: Apache-2.0
import json
import re
import subprocess
import sys

import pytest

from agentcg.cli import main


def agentcg(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["agentcg", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_help_names_every_command_and_each_of_them_can_be_imported(monkeypatch, capsys):
    status, out, _ = agentcg(monkeypatch, capsys, "--help")
    assert status == 0
    names = set(re.findall(r"^  (\w+)  ", out, re.MULTILINE))
    assert {"daemon", "run", "status", "session", "policy", "doctor", "trace", "replay", "record"} <= names
    for name in names:
        assert agentcg(monkeypatch, capsys, name, "--help")[0] == 0, name


def test_an_error_is_one_line_with_a_hint_and_status_1(monkeypatch, capsys, tmp_path):
    status, out, err = agentcg(monkeypatch, capsys, "status", "--socket", str(tmp_path / "none"))
    assert (status, out) == (1, "")
    assert err.startswith(f"agentcg: no daemon at {tmp_path}/none: ")
    assert "hint: start it with `agentcg daemon`" in err


def test_run_refuses_a_bad_size_before_anything_runs(monkeypatch, capsys, tmp_path):
    marker = tmp_path / "ran"
    status, _, err = agentcg(monkeypatch, capsys, "run", "--memory", "1.5g", "--", "touch", str(marker))
    assert status == 1
    assert "--memory: '1.5g' is not a size" in err
    assert not marker.exists()


def test_run_hands_over_to_the_launcher_with_the_intent(monkeypatch, tmp_path):
    launcher = tmp_path / "launcher"
    launcher.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    launcher.chmod(0o755)
    code = "from agentcg.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "run",
        "--memory",
        "512M",
        "--time",
        "90s",
        "--cpu",
        "batch",
        "--network",
        "none",
        "--tool",
        "Bash",
    ]
    command += ["--without-daemon", "fail", "--", "pytest", "-x", "--memory"]
    monkeypatch.setenv("AGENTCG_EXEC", str(launcher))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    given = json.loads(done.stdout)
    assert json.loads(given[given.index("--intent") + 1]) == {
        "memoryMax": 512 << 20,
        "durationMaxSec": 90.0,
        "cpuClass": "batch",
        "networkRate": 0,
    }
    assert given[given.index("--tool") + 1] == "Bash"
    assert given[given.index("--without-daemon") + 1] == "fail"
    assert given[given.index("--") :] == ["--", "pytest", "-x", "--memory"]


def test_the_daemon_is_told_what_it_does_not_do(monkeypatch, capsys):
    started = []

    async def serve(options):
        started.append(options)

    monkeypatch.setattr("agentcg.cli.daemon.serve", serve)
    given = ["--without", "yield", "--without", "kill", "--memory-max", "6G", "--metrics", "127.0.0.1:9464"]
    assert agentcg(monkeypatch, capsys, "daemon", *given, "--dry-run")[0] == 0
    assert agentcg(monkeypatch, capsys, "daemon")[0] == 0
    assert [(one.without, one.dry_run, one.memory_max, one.metrics) for one in started] == [
        ({"yield", "kill"}, True, 6 << 30, "127.0.0.1:9464"),
        (frozenset(), False, None, None),
    ]
    status, _, err = agentcg(monkeypatch, capsys, "daemon", "--without", "sleep")
    assert status == 2
    assert "'sleep' is not one of 'reserve', 'hold', 'tripwire', 'yield', 'cpu', 'reclaim', 'kill'" in err
