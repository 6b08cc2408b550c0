# SPDX-License-Identifier: Apache-2.0
"""Boots one machine, passes on what its command writes, and leaves nothing behind."""

import contextlib
import json
import os
import select
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from machine import frames, host
from machine.errors import MachineError
from machine.layout import CHECKOUT, Cache
from machine.process import end, spawn

__all__ = ["MACHINE_TROUBLE", "TIMED_OUT", "Job", "Machine", "MachineTimeout", "parse_size"]

TIMED_OUT = 124
MACHINE_TROUBLE = 125
BOOT_LIMIT = 180.0
CONSOLE_LINES = 60
LOGS_KEPT = 20

# The share is bound read-only in a mount namespace of its own, because not every virtiofsd can do it.
_SERVE_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


class MachineTimeout(Exception):
    """The command ran longer than it was allowed to."""


@dataclass(frozen=True)
class Job:
    """What to run in which machine."""

    command: Sequence[str]
    kernel: str = "backports"
    memory: int = 4 << 30
    cpus: int = 2
    timeout: float | None = None
    systemd: bool = False
    swap: int = 0
    env: dict[str, str] = field(default_factory=dict)
    boot_limit: float = BOOT_LIMIT
    one_thread: bool = False

    def message(self) -> bytes:
        """Return the line that the guest reads."""
        env = {"AGENTCG_VM": self.kernel, **self.env}
        return json.dumps({"command": list(self.command), "env": env}).encode() + b"\n"


def parse_size(text: str) -> int:
    """Read a size such as `512M` or `4G`; a bare number is bytes."""
    units = {"K": 10, "M": 20, "G": 30}
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in units else (text, "")
    if not (digits.isascii() and digits.isdigit()) or not int(digits):
        raise ValueError(f"{text!r} is not a size such as 512M or 4G")
    return int(digits) << units.get(unit, 0)


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Return a listening Unix socket and the one connection to it, with no name left in the file system."""
    listener = socket.socket(socket.AF_UNIX)
    client = socket.socket(socket.AF_UNIX)
    with tempfile.TemporaryDirectory(prefix="agentcg-vm-") as folder:
        listener.bind(f"{folder}/s")
        listener.listen(1)
        client.connect(f"{folder}/s")
    return listener, client


class Machine:
    """A running machine; use it as a context manager."""

    def __init__(self, cache: Cache, job: Job, accelerator: Sequence[str]) -> None:
        self._cache, self._job, self._accelerator = cache, job, accelerator
        self._exits = contextlib.ExitStack()
        self.console = cache.logs / f"console-{job.kernel}-{os.getpid()}-{time.monotonic_ns()}.log"
        self.boot_seconds = 0.0

    def __enter__(self) -> "Machine":
        with self._exits:
            self._start()
            self._exits = self._exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def _share(self, source: Path, tag: str, read_only: bool) -> list[str]:
        listener, client = connected_pair()
        mode = "always" if read_only else "auto"
        serve = [
            host.virtiofsd(), f"--fd={listener.fileno()}", "-f",
            "-o", f"source={source},cache={mode},sandbox=chroot,xattr,log_level=err",
        ]  # fmt: skip
        if read_only:
            serve = ["unshare", "-m", "--propagation", "private", "sh", "-c", _SERVE_READ_ONLY, str(source), *serve]
        with listener:
            self._exits.callback(end, spawn(serve, self._log, [listener.fileno()]))
        self._exits.enter_context(client)
        self._inherited.append(client.fileno())
        return [
            "-chardev", f"socket,id={tag},fd={client.fileno()}",
            "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}",
        ]  # fmt: skip

    def _swap(self) -> list[str]:
        try:
            disk = os.open(self._cache.top, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self._exits.callback(os.close, disk)
            os.truncate(disk, self._job.swap)
        except OSError as error:
            raise MachineError(f"no swap file: {error.strerror}", f"free space in {self._cache.top}") from error
        self._inherited.append(disk)
        return [
            "-add-fd", f"fd={disk},set=1",
            "-blockdev", "driver=file,node-name=swap,filename=/dev/fdset/1,locking=off",
            "-device", "virtio-blk-pci,drive=swap",
        ]  # fmt: skip

    def _start(self) -> None:
        job = self._job
        self._inherited: list[int] = []
        self._cache.logs.mkdir(parents=True, exist_ok=True)
        prune(self._cache.logs)
        self._log = self._exits.enter_context(self.console.open("ab"))
        ours, theirs = socket.socketpair()
        self._port = self._exits.enter_context(ours)
        self._inherited.append(theirs.fileno())
        devices = [
            *self._share(self._cache.root, "rootfs", read_only=True),
            *self._share(self._cache.kernel(job.kernel), "kernel", read_only=True),
            *self._share(CHECKOUT, "checkout", read_only=False),
            *(self._swap() if job.swap else []),
        ]
        append = (
            "console=ttyS0 quiet panic=-1 rootfstype=virtiofs root=rootfs ro init=/sbin/agentcg-init"
            f" agentcg.systemd={int(job.systemd)} agentcg.swap={int(bool(job.swap))}"
        )
        qemu = [
            host.qemu(), "-M", "q35", *self._accelerator, "-smp", str(job.cpus), "-m", f"{job.memory >> 20}M",
            "-object", f"memory-backend-memfd,id=mem,size={job.memory >> 20}M,share=on", "-numa", "node,memdev=mem",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=job,fd={theirs.fileno()}",
            "-device", f"virtserialport,chardev=job,name={frames.PORT}", *devices,
            "-kernel", str(self._cache.kernel(job.kernel) / "vmlinuz"), "-append", append,
        ]  # fmt: skip
        self._began = time.monotonic()
        self._qemu = spawn(qemu, self._log, self._inherited)
        self._exits.callback(end, self._qemu)
        theirs.close()
        self._port.sendall(job.message())

    def run(self) -> Iterator[bytes | int]:
        """Yield what the command writes, and last its exit status."""
        decoder = frames.Decoder()
        limit, is_up = self._began + self._job.boot_limit, False
        poller = select.poll()
        poller.register(self._port, select.POLLIN)
        while True:
            remaining = limit - time.monotonic()
            if remaining <= 0:
                if is_up:
                    raise MachineTimeout
                raise self.trouble(f"the machine did not reach user space in {self._job.boot_limit:.0f} s")
            if not poller.poll(min(remaining, 60) * 1000):
                continue
            try:
                data = self._port.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise self.trouble("the machine ended without an exit status")
            for kind, payload in decoder.feed(data):
                if kind == frames.UP:
                    self.boot_seconds = time.monotonic() - self._began
                    is_up = True
                    limit = time.monotonic() + (self._job.timeout or float("inf"))
                elif kind == frames.OUTPUT:
                    yield payload
                elif kind == frames.EXIT:
                    yield int(payload)
                    return

    def trouble(self, message: str) -> MachineError:
        """Return an error that shows the end of the console."""
        fix = f"the whole console is in {self.console}; `scripts/vm build --force` makes the machine anew"
        return MachineError(message, fix, self.console_tail())

    def console_tail(self) -> list[str]:
        """Return the console's last lines."""
        text = self.console.read_text(errors="replace").replace("\r", "")
        return text.splitlines()[-CONSOLE_LINES:]


def prune(logs: Path) -> None:
    """Keep the last consoles only."""

    def written(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:  # Another machine starts at the same time, and does the same.
            return 0.0

    for old in sorted(logs.glob("console-*.log"), key=written)[:-LOGS_KEPT]:
        old.unlink(missing_ok=True)
