# SPDX-License-Identifier: Apache-2.0
"""The follower, as a process of this host: no cgroup is needed for it."""

import asyncio
import re
import shutil
import subprocess
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentcg.replay.follower import Follower, Placement
from agentcg.replay.load import build

MB = 1 << 20
PAGE, PAGES = 4096, 512

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


@contextmanager
def running(program, *options):
    """Run it, and give what has it hold so many bytes and waits until it does."""
    with subprocess.Popen([program, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def hold(target):
            process.stdin.write(f"0 {target} 0\n")
            process.stdin.flush()
            while process.stdout.readline() != "d 0\n":
                pass

        yield process, hold
        process.stdin.close()


@pytest.mark.parametrize(("percent", "least", "most"), [(0, 1.0, 1.01), (68, 0.31, 0.37), (100, 0.0, 0.01)])
def test_its_pages_compress_as_they_are_told_to_one_by_one(program, percent, least, most):
    with running(program, "--compressible", str(percent)) as (process, hold):
        hold(PAGES * PAGE)
        pages = held_pages(process.pid)
    assert len(pages) == PAGES
    assert len(set(pages)) == (PAGES if percent < 100 else 1)
    assert all(least <= len(zlib.compress(page)) / PAGE <= most for page in pages)


def held_pages(pid):
    """Return what a process holds in the address space that it has set aside."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps if " rw-p " in line]
    begin = next(begin for begin, end in spans if end - begin == PAGES * PAGE)
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(begin)
        return [memory.read(PAGE) for _ in range(PAGES)]


def test_it_comes_back_to_the_part_of_its_memory_that_is_hot(program):
    with running(program, "--hot", "25") as (process, hold):
        hold(64 * MB)
        # "1" clears who was referenced, but for the pages whose translation a CPU still has; "4" has these forgotten.
        for what in ("1", "4"):
            Path(f"/proc/{process.pid}/clear_refs").write_text(what)
        hold(64 * MB)
        smaps = Path(f"/proc/{process.pid}/smaps").read_text()
        referenced = [int(kib) * 1024 for kib in re.findall(r"^Referenced: +(\d+) kB", smaps, re.M)]
    assert max(referenced) == pytest.approx(16 * MB, abs=64 * 1024)


@pytest.mark.parametrize("option", ["--compressible", "--hot"])
def test_more_than_all_is_refused(program, option):
    done = subprocess.run(
        [program, option, "101"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (2, "e --compressible and --hot: they take 0 to 100\n")


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
