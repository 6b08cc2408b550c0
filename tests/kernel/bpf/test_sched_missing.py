# SPDX-License-Identifier: Apache-2.0
"""What the scheduler says on a kernel that has no sched_ext."""

import asyncio
from pathlib import Path

import pytest

from agentcg.errors import Unsupported
from agentcg.kernel.sched import Scheduler

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(Path("/sys/kernel/sched_ext").exists(), reason="this kernel has sched_ext"),
]


def test_it_is_refused_with_the_reason():
    async def main():
        Scheduler(1, asyncio.get_running_loop(), print)

    with pytest.raises(Unsupported, match=r"this kernel has no sched_ext.*CONFIG_SCHED_CLASS_EXT"):
        asyncio.run(main())
