# SPDX-License-Identifier: Apache-2.0
"""The system calls, as far as any Linux has them."""

import errno
import os
import socket

import pytest

from agentcg.kernel import sys


def test_peer_of_a_socket() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert sys.peer_credentials(left) == (os.getpid(), os.getuid(), os.getgid())
        assert sorted(sys.peer_groups(left)) == sorted(os.getgroups())
        pidfd = sys.peer_pidfd(left)
        if pidfd is not None:
            os.close(pidfd)


def test_file_system_type() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    assert sys.fs_type(fd) == 0x9FA0  # PROC_SUPER_MAGIC
    os.close(fd)
    with pytest.raises(OSError, match="fstatfs: Bad file descriptor"):
        sys.fs_type(fd)


def test_no_process_is_made_in_what_is_no_cgroup() -> None:
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(OSError, match="clone3") as caught:
        sys.clone_into_cgroup(fd)
    assert caught.value.errno in (errno.EBADF, errno.EINVAL, errno.EPERM)
    os.close(fd)


def test_the_parent_death_signal_is_checked() -> None:
    with pytest.raises(OSError, match="PR_SET_PDEATHSIG"):
        sys.set_parent_death_signal(1000)
