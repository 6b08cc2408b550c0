# SPDX-License-Identifier: Apache-2.0
"""The system calls that Python's standard library does not have, by ctypes. Linux only, 64 bit.

Each function raises OSError that says what it was doing. openat, xattrs, pidfd_open and pidfd_send_signal are in
:mod:`os` and :mod:`signal` already.
"""

import ctypes
import errno
import os
import platform
import signal
import socket
import struct
from typing import NamedTuple, NoReturn

__all__ = [
    "CGROUP2_SUPER_MAGIC",
    "LSM_ID_BPF",
    "PeerCredentials",
    "clone_into_cgroup",
    "fs_type",
    "peer_credentials",
    "peer_groups",
    "peer_pidfd",
    "security_modules",
    "set_parent_death_signal",
]

# Constants from the kernel headers: linux/magic.h, linux/sched.h, linux/lsm.h, linux/prctl.h, asm-generic/socket.h,
# asm-generic/unistd.h (these have one number on every architecture).
CGROUP2_SUPER_MAGIC = 0x63677270
CLONE_PIDFD = 0x1000
CLONE_INTO_CGROUP = 0x200000000
LSM_ID_BPF = 109
PR_SET_PDEATHSIG = 1
SO_PEERGROUPS = 59
SO_PEERPIDFD = 77
SYS_CLONE3 = 435
SYS_LSM_LIST_MODULES = 461

_ENOSYS_MESSAGE = "this kernel ({}) has no {}: it came with Linux {}"

libc = ctypes.CDLL(None, use_errno=True)


class _Statfs(ctypes.Structure):
    # struct statfs of 64-bit architectures; only the first field is read.
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


class _CloneArgs(ctypes.Structure):
    # struct clone_args, version 2: Linux commit ef2c41cf38a7 ("clone3: allow spawning processes into cgroups"), v5.7.
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


libc.fstatfs.argtypes = (ctypes.c_int, ctypes.POINTER(_Statfs))
libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
libc.syscall.restype = ctypes.c_long


def _fail(doing: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{doing}: {os.strerror(number)}")


def fs_type(fd: int) -> int:
    """Return the magic number of the file system that ``fd`` is on, such as :data:`CGROUP2_SUPER_MAGIC`."""
    buffer = _Statfs()
    if libc.fstatfs(fd, ctypes.byref(buffer)) < 0:
        _fail("fstatfs")
    return int(buffer.f_type)


def clone_into_cgroup(cgroup: int) -> tuple[int, int]:
    """Fork, with the child born in the cgroup of directory descriptor ``cgroup``: it never runs anywhere else.

    :returns: ``(pid, pidfd)`` in the parent, ``(0, -1)`` in the child, which may only set itself up and execute
    :raises OSError: EBUSY if the cgroup is not a leaf, EAGAIN at its pids.max, ENOSYS before Linux 5.7
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=CLONE_INTO_CGROUP | CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=signal.SIGCHLD,
        cgroup=cgroup,
    )
    pid = libc.syscall(ctypes.c_long(SYS_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments)))
    if pid < 0:
        if ctypes.get_errno() == errno.ENOSYS:
            raise OSError(errno.ENOSYS, _ENOSYS_MESSAGE.format(platform.release(), "CLONE_INTO_CGROUP", "5.7"))
        _fail("clone3(CLONE_INTO_CGROUP)")
    return (int(pid), pidfd.value) if pid else (0, -1)


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send signal ``number`` to this process when the thread that made it ends."""
    if libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) < 0:
        _fail("prctl(PR_SET_PDEATHSIG)")


def security_modules() -> list[int]:
    """Return the ids of the active security modules, in the order in which they are asked.

    :raises OSError: ENOSYS before Linux 6.8: commit ad4aff9ec25f ("LSM: Create lsm_list_modules system call")
    """
    ids = (ctypes.c_uint64 * 64)()
    size = ctypes.c_uint32(ctypes.sizeof(ids))
    number = ctypes.c_long(SYS_LSM_LIST_MODULES)
    count = libc.syscall(number, ctypes.byref(ids), ctypes.byref(size), ctypes.c_long(0))
    if count < 0:
        _fail("lsm_list_modules")
    return list(ids[:count])


class PeerCredentials(NamedTuple):
    """Who connected a Unix socket, as of ``connect``."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Return the credentials of the process at the other end of a Unix stream socket."""
    return PeerCredentials(*struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


def peer_groups(sock: socket.socket) -> list[int]:
    """Return the supplementary groups of the peer (Linux commit 28b5ba2aa0f5, v4.13)."""
    # By ctypes: Python's getsockopt takes at most 1 KiB, and a process may be in 65,536 groups.
    groups = (ctypes.c_uint32 * 65_536)()
    size = ctypes.c_uint32(ctypes.sizeof(groups))
    if libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, groups, ctypes.byref(size)) < 0:
        _fail("getsockopt(SO_PEERGROUPS)")
    return list(groups[: size.value // ctypes.sizeof(ctypes.c_uint32)])


def peer_pidfd(sock: socket.socket) -> int | None:
    """Return a pidfd of the peer, or None where the kernel has no SO_PEERPIDFD (commit 7b26952a91cf, v6.5)."""
    try:
        return int(struct.unpack("i", sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0])
    except OSError as error:
        # ESRCH/EINVAL: the peer is gone already; its connection will end by itself.
        if error.errno in (errno.ENOPROTOOPT, errno.ESRCH, errno.EINVAL, errno.ENODATA):
            return None
        raise
