# SPDX-License-Identifier: Apache-2.0
"""The table of a sweep."""

import pytest
from rich.console import Console

from agentcg.replay.arm_spec import parse_arm
from agentcg.replay.result import ArmResult, SessionResult, latency
from agentcg.replay.run_description import RunDescription
from agentcg.replay.run_folder import FinishedArm, open_run
from agentcg.replay.sweep.plan import Configuration
from agentcg.replay.sweep.table import render, rows_of
from agentcg.replay.sweep.work import Failed

ARMS = (parse_arm("none"), parse_arm("static"))
CONFIGURATION = Configuration(ARMS, 1 << 30, 2.0, 0)


def session(protected, ratio):
    state = "died" if ratio is None else "finished"
    plain = {"calls_recorded": 0, "calls_started": 0, "failed": [], "growth": latency([]), "boundaries": latency([])}
    times = {"completion_sec": 2.0 * (ratio or 0.1), "recorded_sec": 2.0}
    return SessionResult("s", "r", protected, None, state, **times, **plain, oom_kills_agent=0, oom_kills_call=0)


def arm(name, *ratios):
    """The first of the sessions is protected."""
    sessions = [session(at == 0, ratio) for at, ratio in enumerate(ratios)]
    return ArmResult(name, 1 << 30, 20.0, 1.0, sessions)


@pytest.fixture
def folder(tmp_path):
    names = [spec.name for spec in ARMS]
    what = {"mode": "simulated", "agentcg": "1", "kernel": "k", "cpus": 2, "machine": "m", "memory_max": 1 << 30}
    run = RunDescription(**what, speed=20.0, seed=0, rounds=3, arms=names, sessions=None, options={})
    first, second = (open_run(tmp_path / name, run) for name in ("0000", "0001"))
    for number, ratios in enumerate([(1.1, 2.0, None), (1.3, 3.0, 4.0), (1.2, 1.0, None)]):
        first.append(FinishedArm(number, "none", arm("none", *ratios), 0.0), [])
    for number, ratios in enumerate([(1.0, 1.5, 1.5), (None, 1.5, 1.5), (None, 1.5, 1.5)]):
        first.append(FinishedArm(number, "static", arm("static", *ratios), 0.0), [])
    second.append(FinishedArm(0, "none", arm("none", 1.15, None, None), 0.0), [])
    return tmp_path


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("completion", [("0001", "none"), ("0000", "none"), ("0000", "static"), ("0001", "static")]),
        ("others", [("0000", "static"), ("0000", "none"), ("0001", "none"), ("0001", "static")]),
        ("survivors", [("0000", "none"), ("0000", "static"), ("0001", "none"), ("0001", "static")]),
    ],
)
def test_the_best_comes_first(folder, by, order):
    rows = rows_of(folder, [CONFIGURATION, CONFIGURATION], [], by)
    assert [(row.configuration, row.arm) for row in rows] == order


def test_who_does_not_finish_took_forever(folder):
    none, static = rows_of(folder, [CONFIGURATION], [], "survivors")
    # Protected 1.1, 1.2, 1.3; the others 1, 2, 3, 4 and twice forever.
    assert (none.completion, none.others, none.survivors) == pytest.approx((1.2, 3.5, 7 / 9))
    assert (static.completion, static.others, static.survivors) == (None, pytest.approx(1.5), pytest.approx(7 / 9))


def test_the_table_shows_twenty_and_what_failed(folder, job):
    failed = [Failed(job(2, ARMS[1]), "3 workers died of it")]
    rows = rows_of(folder, [CONFIGURATION], failed, "completion")
    console = Console(width=80, record=True, file=None, quiet=False, color_system=None)
    with console.capture() as captured:
        console.print(render(rows * 11, "completion"))
    lines = captured.get().splitlines()
    assert lines[0].strip() == "The best by completion, of 22"
    assert lines[2].split() == ["0000", "none", "1.0", "GiB", "2", "0", "B", "1.20", "x", "3.50", "x", "78%"]
    assert sum(line.startswith("0000 ") for line in lines) == 20
    assert "… and 2 more: --json has all" in lines
    assert lines.count("0000, static, round 2: 3 workers died of it") == 11
