# SPDX-License-Identifier: Apache-2.0
"""systemd-oomd's prekill hook as this host is set up: oomd.conf(5), "PREKILL EVENT"."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["HOOKS", "hook_timeout", "systemd_runs"]

HOOKS = "/run/systemd/oomd.prekill.hook"
"""Where the sockets are that systemd-oomd tells what it is about to kill."""

# In the order of precedence: systemd.syntax(7), "Configuration directories and precedence".
_DIRECTORIES = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")


def systemd_runs() -> bool:
    """Whether systemd is the service manager: sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def hook_timeout(directories: Iterable[str] = _DIRECTORIES) -> str | None:
    """Return what ``PrekillHookTimeoutSec=`` is set to, as it is written; None where systemd-oomd tells nobody."""
    found = ""
    for path in _files(list(directories)):
        for line in path.read_text(errors="replace").splitlines():
            name, is_one, value = line.partition("=")
            if is_one and name.strip() == "PrekillHookTimeoutSec":
                found = value.strip()
    return found if found.strip("0usmin ") else None  # What is left of "0", "0s" or "0 min" is nothing.


def _files(directories: list[str]) -> list[Path]:
    """Return the files that count, in the order in which the later one wins: one main file, then all drop-ins."""
    main = [path for path in (Path(one, "oomd.conf") for one in directories) if path.is_file()][:1]
    extra: dict[str, Path] = {}
    for one in reversed(directories):
        extra.update({path.name: path for path in Path(one, "oomd.conf.d").glob("*.conf")})
    return main + [extra[name] for name in sorted(extra) if extra[name].is_file()]
