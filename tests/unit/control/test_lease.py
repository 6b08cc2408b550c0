# SPDX-License-Identifier: Apache-2.0
"""Who stands for a call after a restart: the same process, not one that has its pid now."""

import asyncio
import os
import signal
import subprocess
from typing import Any

import pytest

from agentcg.control.lease import Lease


def resume(record: dict[str, Any] | None) -> bool:
    async def run() -> bool:
        lease = Lease.resume(record, lambda _: None)
        alive = lease.alive
        lease.release()
        assert lease.resumed
        return alive

    return asyncio.run(run())


def test_the_same_process_holds_on() -> None:
    assert resume(Lease(os.getpid()).record()) is True


def test_another_process_with_its_pid_does_not() -> None:
    record = Lease(os.getpid()).record()
    assert resume(record | {"start": record["start"] + 1}) is False


def test_a_process_that_ended_does_not() -> None:
    with subprocess.Popen(["true"]) as process:
        record = Lease(process.pid).record()
    assert record["start"]
    assert resume(record) is False


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"pid": 0, "start": None},
        {"pid": -1, "start": 1},
        pytest.param({"pid": os.getpid()}, id="no start"),
        {"pid": "x", "start": 1},
        {"pid": [1], "start": 1},
        {"pid": None, "start": 1},
        {"pid": 1e400, "start": 1},
        {"pid": 2**70, "start": 1},
    ],
    ids=repr,
)
def test_a_record_of_nobody_is_an_ended_lease(record: dict[str, Any] | None) -> None:
    assert resume(record) is False


def test_the_end_of_the_holder_is_told_once() -> None:
    async def run(pid: int) -> None:
        told: list[Lease] = []
        lease = Lease.resume(Lease(pid).record(), told.append)
        assert lease.alive
        os.kill(pid, signal.SIGKILL)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert told == [lease]
        assert not lease.alive
        lease.release()

    with subprocess.Popen(["sleep", "60"]) as process:
        asyncio.run(run(process.pid))


def test_a_name_with_parentheses_is_no_trouble(tmp_path) -> None:  # type: ignore[no-untyped-def]
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as process:
        assert resume(Lease(process.pid).record()) is True
        process.kill()
