# SPDX-License-Identifier: Apache-2.0
"""The two small protocols that a service speaks with systemd: sd_notify(3) and socket activation, sd_listen_fds(3)."""

import os
import socket

__all__ = ["listen_socket", "notify", "watchdog_sec"]


def notify(state: str) -> bool:
    """Tell the service manager ``state``, such as ``READY=1``. False if nobody wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())
    return True


def watchdog_sec() -> float | None:
    """Return how often the service manager wants a ``WATCHDOG=1``, in seconds: half of its time-out."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = os.environ.get("WATCHDOG_USEC", "")
    return int(usec) / 2e6 if usec.isdigit() and int(usec) else None


def listen_socket() -> socket.socket | None:
    """Return the socket that the service manager listens on for us, or None if it passed none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return socket.socket(fileno=3)
