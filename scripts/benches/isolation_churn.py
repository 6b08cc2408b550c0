# SPDX-License-Identifier: Apache-2.0
"""The processes of the lock bench: ``churn DIRECTORY`` makes and removes a file, ``pause CGROUP`` freezes and thaws.

They say that they are ready, begin when they are told to, and go on until they are ended. Nothing slow is imported.
"""

import os
import sys
import time

__all__ = ["touch"]

PAUSED_SEC, RUNNING_SEC = 0.15, 0.05


def touch(path: str) -> None:
    """Make a file and remove it."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.unlink(path)


def churn(directory: str) -> None:
    """Make and remove a file in ``directory`` for ever."""
    path = f"{directory}/c-{os.getpid()}"
    while True:
        touch(path)


def pause(cgroup: str) -> None:
    """Freeze and thaw a cgroup for ever."""
    while True:
        for frozen, seconds in (("1", PAUSED_SEC), ("0", RUNNING_SEC)):
            with open(f"{cgroup}/cgroup.freeze", "w") as file:
                file.write(frozen)
            time.sleep(seconds)


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    {"churn": churn, "pause": pause}[sys.argv[1]](sys.argv[2])
