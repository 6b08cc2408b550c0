# SPDX-License-Identifier: Apache-2.0
"""Has the scheduler for the bench of that name until its standard input ends: a line of JSON there is a call."""

import asyncio
import json
import sys

from agentcg.kernel.sched import Exit, Latency, Scheduler


async def main(*, full: bool) -> int:
    """Return the exit status: 1 if the scheduler was thrown out."""
    loop = asyncio.get_running_loop()
    ended: list[Exit] = []
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    with Scheduler(1, loop, ended.append, full=full) as scheduler:
        print("ok", flush=True)
        while line := await lines.readline():
            call = json.loads(line)
            scheduler.set_call(call.pop("cgroup_id"), latency=Latency(call.pop("latency", 0)), **call)
            print("ok", flush=True)
    if ended:
        print(ended[0])
    return len(ended)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(full="full" in sys.argv)))
