# SPDX-License-Identifier: Apache-2.0
"""What the host must have: tools, rights and space, each missing one with its fix."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from machine.errors import MachineError
from machine.layout import Cache

__all__ = ["KEYRING", "check", "check_space", "needed_packages", "qemu", "virtiofsd"]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
NEEDED_BYTES = 4 << 30
_VIRTIOFSD_FOLDERS = ("/usr/libexec", "/usr/lib/qemu", "/usr/lib/virtiofsd")
_INSTALL = "run: apt-get install --no-install-recommends $(scripts/vm requirements)"


def find(name: str, folders: tuple[str, ...] = ()) -> str:
    """Return the path of a program, or say how to get it."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *folders])
    found = shutil.which(name, path=path)
    if not found:
        raise MachineError(f"{name} is missing", _INSTALL)
    return found


def qemu() -> str:
    """Return the path of QEMU."""
    return find("qemu-system-x86_64")


def virtiofsd() -> str:
    """Return the path of virtiofsd, which no distribution has in PATH."""
    return find("virtiofsd", _VIRTIOFSD_FOLDERS)


@cache
def needed_packages() -> tuple[str, ...]:
    """Return the names of the host's packages that the test machine needs.

    virtiofsd came with QEMU (Debian 12) before it was a package of its own (Debian 13, Ubuntu 24.04).
    """
    try:
        asked = ["apt-cache", "show", "--no-all-versions", "virtiofsd"]
        own = bool(subprocess.run(asked, capture_output=True, check=False).stdout)
    except FileNotFoundError:
        own = True
    served_by = "virtiofsd" if own else "qemu-system-common"
    return ("qemu-system-x86", served_by, "mmdebstrap", "debian-archive-keyring", "util-linux", "mount")


def check(building: bool) -> None:
    """Raise an error for the first thing that is missing."""
    if os.geteuid() != 0:
        raise MachineError("not root: mmdebstrap and virtiofsd need it", "run it as root: sudo -E scripts/vm …")
    if os.uname().machine != "x86_64":
        raise MachineError(f"this is {os.uname().machine}", "use an x86-64 host: the stock kernels are amd64 ones")
    for name in ("unshare", "mount", "sh"):
        find(name)
    qemu()
    virtiofsd()
    if building:
        for name in ("mmdebstrap", "apt-get", "apt-cache", "dpkg", "dpkg-deb", "chroot"):
            find(name)
        if not KEYRING.exists():
            raise MachineError(f"{KEYRING} is missing", _INSTALL)


def check_space(cache_folder: Cache) -> None:
    """Raise an error when a build would fill the disk."""
    free = shutil.disk_usage(cache_folder.top).free
    if free < NEEDED_BYTES:
        raise MachineError(
            f"{cache_folder.top} has {free / (1 << 30):.1f} GiB free, a build takes {NEEDED_BYTES >> 30}",
            "free some, or set XDG_CACHE_HOME to a folder on a larger disk",
        )
