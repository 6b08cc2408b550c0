# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process. All of it may have ended, or be another's, by the time it is read."""

from __future__ import annotations

import select
from pathlib import Path

__all__ = ["command_words", "environment_variable", "has_ended", "set_oom_score_adj", "start_time"]

_WORDS_MAX = 64 << 10
_ENVIRONMENT_MAX = 256 << 10


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot: with the pid it is unique (proc_pid_stat(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text() if pid > 0 else ""
    except OSError:
        return None
    # The command's name may hold anything, also spaces and parentheses; what counts comes after the last one.
    return int(text.rpartition(")")[2].split()[19]) if text else None


def command_words(pid: int) -> list[str]:
    """Return the words that a process was executed with, as far as they stand in the first 64 KiB.

    :raises OSError: if it has ended
    """
    text = _read(pid, "cmdline", _WORDS_MAX)
    return [word.decode(errors="surrogateescape") for word in text.removesuffix(b"\0").split(b"\0")]


def environment_variable(pid: int, name: str) -> str | None:
    """Return a variable that a process was executed with, looked for in the first 256 KiB. None if there is none.

    :raises OSError: if it has ended
    """
    wanted = f"{name}=".encode()
    entries = _read(pid, "environ", _ENVIRONMENT_MAX).split(b"\0")
    return next((one[len(wanted) :].decode(errors="replace") for one in entries if one.startswith(wanted)), None)


def set_oom_score_adj(pid: int, value: int) -> None:
    """Have the OOM killer think so much the worse of a process, -1000 to 1000. :raises OSError: if it has ended"""
    with open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write(str(value))


def has_ended(pidfd: int) -> bool:
    """Return whether the process of a pidfd has ended, with all its threads."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _read(pid: int, name: str, limit: int) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read(limit)
