# SPDX-License-Identifier: Apache-2.0
"""Control files of a cgroup, by the descriptor of its directory.

A file that this kernel or this controller set does not have is a value, ``None``, not an error; so is a cgroup that
was removed meanwhile. Nothing is ever created: on a file system that is not cgroupfs, a write would otherwise make a
plain file and succeed.

Formats: Documentation/admin-guide/cgroup-v2.rst, "Format".
"""

import errno
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "Pressure",
    "Stall",
    "exists",
    "parse_flat_keyed",
    "parse_nested_keyed",
    "parse_pressure",
    "read",
    "read_flat_keyed",
    "read_int",
    "read_nested_keyed",
    "read_pressure",
    "read_words",
    "write",
    "write_limit",
]

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP})


class Stall(NamedTuple):
    """One line of a pressure file: shares in percent over 10, 60 and 300 s, and the total in seconds."""

    avg10: float
    avg60: float
    avg300: float
    total_sec: float


class Pressure(NamedTuple):
    """A pressure file. ``full`` is None where the kernel does not report it."""

    some: Stall
    full: Stall | None


def exists(directory: int, name: str) -> bool:
    """Whether there is such a control file. Some, such as cgroup.kill, can only be written."""
    return os.access(name, os.F_OK, dir_fd=directory)


def read(directory: int, name: str) -> str | None:
    """Return the text of a control file, or None if there is no such file or no such cgroup any more."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        text = os.read(fd, 65_536)
        # A list of processes comes a page at a time (seq_file); anything shorter than half of one is whole.
        while len(text) > 2048 and (chunk := os.read(fd, 65_536)):
            text += chunk
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    finally:
        os.close(fd)
    return text.decode()


def write(directory: int, name: str, text: str, *, wait: bool = True) -> bool:
    """Write a control file in one go. Returns False if this kernel has no such file.

    :param wait: a lower memory limit may first reclaim what is above it; if False, it is left to those who charge:
        Linux commit c8e6002bd611 ("memcg: introduce non-blocking limit setting option"), before which it is waited for
    :raises OSError: what the kernel answered, with the file's name and the text in it
    """
    try:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if wait else os.O_NONBLOCK)
        fd = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"writing {text!r} to {name}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(fd)
    return True


def write_limit(directory: int, name: str, value: int | None, *, wait: bool = True) -> bool:
    """Write a limit; None stands for ``max``. As :func:`write`."""
    return write(directory, name, "max" if value is None else str(value), wait=wait)


def read_int(directory: int, name: str) -> float | None:
    """Return the number in a single-value file, ``math.inf`` for ``max``, None where there is no such file."""
    text = read(directory, name)
    if text is None:
        return None
    text = text.strip()
    return math.inf if text == "max" else int(text)


def read_words(directory: int, name: str) -> list[str] | None:
    """Return the words of a file such as ``cgroup.controllers``."""
    text = read(directory, name)
    return None if text is None else text.split()


def parse_flat_keyed(text: str) -> dict[str, int]:
    """Read ``KEY VALUE`` lines, as in memory.events and cpu.stat. Values that are not numbers are left out."""
    pairs = (line.split(None, 1) for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].strip().isdigit()}


def read_flat_keyed(directory: int, name: str) -> Mapping[str, int]:
    """Return the ``KEY VALUE`` lines of a file; empty where there is no such file."""
    return parse_flat_keyed(read(directory, name) or "")


def parse_nested_keyed(text: str) -> dict[str, dict[str, int]]:
    """Read ``KEY SUB=VALUE SUB=VALUE`` lines, as in io.stat."""
    result: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        key, *pairs = line.split()
        items = (pair.split("=", 1) for pair in pairs if "=" in pair)
        result[key] = {sub: int(value) for sub, value in items if value.isdigit()}
    return result


def read_nested_keyed(directory: int, name: str) -> Mapping[str, Mapping[str, int]]:
    """Return the nested-keyed lines of a file; empty where there is no such file."""
    return parse_nested_keyed(read(directory, name) or "")


def parse_pressure(text: str) -> Pressure | None:
    """Read a PSI file (Documentation/accounting/psi.rst); ``total`` is in microseconds there, in seconds here."""
    lines: dict[str, Stall] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
        lines[kind] = Stall(
            float(values["avg10"]), float(values["avg60"]), float(values["avg300"]), int(values["total"]) / 1e6
        )
    return Pressure(lines["some"], lines.get("full")) if "some" in lines else None


def read_pressure(directory: int, name: str) -> Pressure | None:
    """Return a PSI file, or None where pressure is not accounted."""
    try:
        text = read(directory, name)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return None
        raise
    return None if text is None else parse_pressure(text)
