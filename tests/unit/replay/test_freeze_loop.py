# SPDX-License-Identifier: Apache-2.0
"""Whom the loop freezes."""

import subprocess
import sys

import pytest

from agentcg.replay.freeze_loop import frozen


@pytest.mark.parametrize(
    ("share", "before", "options", "wanted"),
    [
        (0.50, 0, {}, 0),
        (0.91, 0, {}, 1),
        (0.96, 1, {}, 2),
        (0.91, 2, {}, 2),  # Not thawed before it is below 85 %.
        (0.86, 1, {}, 1),
        (0.84, 2, {}, 0),
        (0.50, 0, {"grows": True}, 2),
        (0.99, 2, {"protected_lives": False}, 1),  # Nobody else could finish, and give memory back.
    ],
)
def test_loop_freezes_the_others_one_by_one_and_never_everybody(share, before, options, wanted):
    assert frozen(share, before, 2, **({"protected_lives": True, "grows": False} | options)) == wanted


class Loop:
    """The loop on a hierarchy of plain files."""

    def __init__(self, top, by):
        self.top = top
        for name in ("", "high", "o1", "o2"):
            (top / name).mkdir(exist_ok=True)
            self.set(name, "memory.current", "0")
            self.set(name, "cgroup.events", "populated 1")
            self.set(name, "memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull total=0")
        command = [sys.executable, "-m", "agentcg.replay.freeze_loop", str(top), "1000", by, "1", "high", "o1", "o2"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "ready\n"

    def set(self, name, file, text):
        (self.top / name / "new").write_text(text)
        (self.top / name / "new").rename(self.top / name / file)

    def said(self, count):
        """The next lines, without their times."""
        return {self._process.stdout.readline().split(" ", 1)[1].strip() for _ in range(count)}

    def frozen(self):
        return [name for name in ("o1", "o2") if (self.top / name / "cgroup.freeze").read_text() == "1"]


@pytest.fixture
def loop(tmp_path):
    started = []

    def start(by):
        started.append(Loop(tmp_path, by))
        return started[-1]

    yield start
    for one in started:
        one._process.kill()
        one._process.communicate(timeout=10)


@pytest.mark.timeout(30)
def test_the_loop_freezes_and_thaws_and_says_so(loop):
    running = loop("current")
    running.set("", "memory.current", "920")
    assert running.said(1) == {"1 o2"}
    running.set("", "memory.current", "960")
    assert running.said(1) == {"1 o1"}
    assert running.frozen() == ["o1", "o2"]
    running.set("", "memory.current", "100")
    assert running.said(2) == {"0 o1", "0 o2"}
    assert running.frozen() == []


@pytest.mark.timeout(30)
def test_by_pressure_it_freezes_while_the_protected_one_waits_for_memory(loop):
    running = loop("pressure")
    running.set("high", "memory.pressure", "some avg10=9.00 avg60=0.00 avg300=0.00 total=5000\nfull total=0")
    assert running.said(4) == {"1 o1", "1 o2", "0 o1", "0 o2"}
