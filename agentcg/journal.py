# SPDX-License-Identifier: Apache-2.0
"""The log as systemd's journal has it: each record with fields that it can be found by.

systemd.io/JOURNAL_NATIVE_PROTOCOL: a datagram is an entry, and one that is too large for that is a sealed memfd. The
fields that are not ours are in systemd.journal-fields(7).
"""

from __future__ import annotations

import array
import errno
import fcntl
import io
import logging
import os
import socket
import struct
import syslog
from typing import TextIO

__all__ = ["JournalHandler", "about", "is_journal", "log_handler"]

SOCKET = "/run/systemd/journal/socket"
_OURS = "agentcg_"
_PRIORITIES = (
    (logging.CRITICAL, syslog.LOG_CRIT),
    (logging.ERROR, syslog.LOG_ERR),
    (logging.WARNING, syslog.LOG_WARNING),
    (logging.INFO, syslog.LOG_INFO),
)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def about(subject: object, **more: str) -> dict[str, str]:
    """Return a record's ``extra``: the call or session that it is about, by its full name, and what else there is.

    >>> about("u0/fix/c1", outcome="ok")
    {'agentcg_session': 'u0/fix', 'agentcg_call': 'u0/fix/c1', 'agentcg_outcome': 'ok'}
    """
    name = str(subject)
    parts = name.split("/")
    named = {"session": "/".join(parts[:2])} if len(parts) > 1 else {}
    named |= {"call": name} if len(parts) > 2 else {}
    return {f"{_OURS}{key}": value for key, value in (named | more).items()}


def is_journal(fd: int) -> bool:
    """Whether what is written to a descriptor goes to the journal: systemd.exec(5), JOURNAL_STREAM."""
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def log_handler(stream: TextIO, path: str = SOCKET) -> logging.Handler:
    """Return what writes records to ``stream``; to the journal itself, with fields, where that is the journal."""
    try:
        found = is_journal(stream.fileno())
    except (OSError, io.UnsupportedOperation):
        found = False
    return JournalHandler(stream, path) if found else logging.StreamHandler(stream)


class JournalHandler(logging.StreamHandler[TextIO]):
    """Sends records to the journal; those that it does not take go to ``stream``. Never waits for it."""

    def __init__(self, stream: TextIO, path: str = SOCKET) -> None:
        super().__init__(stream)
        self._path = path
        self._message = logging.Formatter("%(message)s")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            self._send(b"".join(_field(name, value) for name, value in self._fields(record).items()))
        except OSError:
            super().emit(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        priority = next((found for level, found in _PRIORITIES if record.levelno >= level), syslog.LOG_DEBUG)
        fields = {
            "MESSAGE": self._message.format(record),
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "agentcg",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        ours = {name.upper(): str(value) for name, value in vars(record).items() if name.startswith(_OURS)}
        return fields | ours

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        with open(os.memfd_create("agentcg-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb", buffering=0) as file:
            file.write(entry)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = array.array("i", [file.fileno()])
            self._socket.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], 0, self._path)


def _field(name: str, value: str) -> bytes:
    """Return a field of an entry; a value with a newline is told by its length."""
    data = value.encode("utf-8", "replace")
    if b"\n" in data:
        return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)
    return b"%s=%s\n" % (name.encode(), data)
