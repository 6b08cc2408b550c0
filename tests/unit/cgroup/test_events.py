# SPDX-License-Identifier: Apache-2.0
"""Waiting for control files, on the one kind of file outside cgroupfs that reports as they do: /proc/self/mounts."""

import asyncio
import os
from pathlib import Path

from agentcg.cgroup.events import EventPoll


def test_a_file_that_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    async def run() -> None:
        poll = EventPoll(asyncio.get_running_loop())
        fd = os.open(tmp_path, os.O_RDONLY)
        assert poll.watch_file(fd, "memory.events", lambda: None) is None
        assert poll.watch_pressure(fd, "memory.pressure", lambda: None, stall_sec=0.1, window_sec=1) is None
        poll.unwatch(None)
        poll.unwatch(12345)
        os.close(fd)
        poll.close()

    asyncio.run(run())


def test_nothing_stays_open() -> None:
    async def run() -> None:
        before = set(os.listdir("/proc/self/fd"))
        poll = EventPoll(asyncio.get_running_loop())
        fd = os.open("/proc/self", os.O_RDONLY)
        handle = poll.watch_file(fd, "mounts", lambda: None)
        assert handle is not None
        poll.unwatch(handle)
        poll.unwatch(handle)
        assert poll.watch_file(fd, "mounts", lambda: None) is not None
        poll.close()
        os.close(fd)
        assert set(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())
