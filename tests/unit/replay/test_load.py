# SPDX-License-Identifier: Apache-2.0
"""The follower, as a process of this host: no cgroup is needed for it."""

import asyncio
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from agentcg.replay.follower import Follower, Placement
from agentcg.replay.load import build

MB = 1 << 20

pytestmark = pytest.mark.skipif(not (shutil.which("cc") or shutil.which("clang")), reason="no C compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("bin")))


def run(program, text):
    began = time.monotonic()
    done = subprocess.run([program], input=text, capture_output=True, text=True, timeout=20)
    return done, time.monotonic() - began


def test_it_grows_by_what_is_missing_and_says_so(program):
    done, _ = run(program, f"0 {5 * MB} 0\n0 {2 * MB + 1} 0\n0 {3 * MB} 0\n")
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert lines == [["g", str(5 * MB)], ["d", "0"], ["d", "0"], ["g", str(MB - 4096)], ["d", "0"]]
    assert done.returncode == 0


def test_it_holds_exactly_the_target(program):
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        anonymous = []
        for target in (0, 64 * MB, 10 * MB):
            process.stdin.write(f"0 {target} 0\n")
            process.stdin.flush()
            while process.stdout.readline() != "d 0\n":
                pass
            status = Path(f"/proc/{process.pid}/status").read_text()
            anonymous.append(int(status.partition("RssAnon:")[2].split()[0]) * 1024)
        process.stdin.close()
    assert anonymous[1] - anonymous[0] == pytest.approx(64 * MB, abs=64 * 1024)
    assert anonymous[2] - anonymous[0] == pytest.approx(10 * MB, abs=64 * 1024)


def test_a_part_of_what_it_holds_can_be_page_cache(program, tmp_path):
    command = [program, "--cached", "25", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        held = []
        for target in (0, 64 * MB, 16 * MB):
            process.stdin.write(f"0 {target} 0\n")
            process.stdin.flush()
            while process.stdout.readline() != "d 0\n":
                pass
            status = Path(f"/proc/{process.pid}/status").read_text()
            kinds = (
                int(status.partition(f"{kind}:")[2].split()[0]) * 1024 for kind in ("RssAnon", "RssFile", "RssShmem")
            )
            anonymous, *mapped = kinds
            held.append((anonymous, sum(mapped)))
        process.stdin.close()
    assert not list(tmp_path.iterdir())
    for at, anonymous, mapped in ((1, 48 * MB, 16 * MB), (2, 12 * MB, 4 * MB)):
        assert held[at][0] - held[0][0] == pytest.approx(anonymous, abs=256 * 1024)
        assert held[at][1] - held[0][1] == pytest.approx(mapped, abs=MB)


def test_it_burns_cpu_time_and_a_late_point_shifts_the_rest(program):
    done, took = run(program, "10000 0 150000\n110000 0 150000\n")
    assert done.returncode == 0
    assert 0.25 <= took < 2  # 150 ms of CPU time, then the 100 ms that lie between the two points.
    burnt, nothing = (int(line.split()[1]) for line in done.stdout.splitlines())
    assert burnt > 0
    assert nothing == 0


@pytest.mark.parametrize("text", ["1 2\n", "a 1 2\n", "1 2 3 4\n", "1 99999999999999 1\n"])
def test_what_is_no_point_ends_it_with_a_reason(program, text):
    done, _ = run(program, text)
    assert done.returncode == 2
    assert done.stdout.startswith("e ")
    assert text.strip() in done.stdout


def test_a_follower_is_heard_and_what_it_wrote_survives_a_kill(program, tmp_path):
    async def follow():
        heard = asyncio.Event()
        with (tmp_path / "procs").open("wb") as procs:
            follower = await Follower.start(program, Placement(procs.fileno()), heard.set)
        follower.follow([(0.0, 4 * MB, 0.0), (60.0, 4 * MB, 0.0)], last=True)
        await asyncio.wait_for(heard.wait(), 10)
        await follower.stop()
        return follower, await follower.wait()

    follower, status = asyncio.run(follow())
    assert status == -9
    assert [step.size for step in follower.growth] == [4 * MB]
    assert (tmp_path / "procs").read_bytes() == b"0"  # It moved itself in before anything else.
