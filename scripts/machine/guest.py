# SPDX-License-Identifier: Apache-2.0
"""The guest's side: from the first program to the command's exit status.

As PID 1 it lays a writable tmpfs over the read-only root, mounts what a Linux system has, and either runs the job
itself or becomes systemd, which then runs this file again with `--job`.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import frames

CHECKOUT = "/agentcg"
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
PATH = "/opt/agentcg/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Each of these costs seconds of boot under emulation, and nothing here needs them.
MASKED = (
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udev-settle.service",
    "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-hwdb-update.service",
    "systemd-journal-flush.service", "systemd-journal-catalog-update.service", "systemd-random-seed.service",
    "systemd-update-utmp.service", "systemd-update-done.service", "systemd-firstboot.service", "ldconfig.service",
    "systemd-sysusers.service", "systemd-binfmt.service", "systemd-timesyncd.service", "systemd-networkd.service",
    "systemd-remount-fs.service", "systemd-machine-id-commit.service", "getty.target", "timers.target",
    "e2scrub_reap.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
    "systemd-boot-random-seed.service",
    "docker.service", "docker.socket", "containerd.service", "systemd-tmpfiles-setup-dev-early.service",
    "systemd-modules-load.service", "kmod-static-nodes.service", "dev-hugepages.mount", "run-lock.mount",
    "systemd-tmpfiles-setup-dev.service", "systemd-vconsole-setup.service", "modprobe@.service", "tmp.mount",
)  # fmt: skip

JOB_UNIT = """[Unit]
Description=The command of scripts/vm
Requires=basic.target dbus.socket
After=basic.target dbus.socket systemd-logind.service
FailureAction=poweroff-force
SuccessAction=poweroff-force
[Service]
Type=exec
ExecStart=/usr/bin/python3 -B -E -s /agentcg/scripts/machine/guest.py --job
TasksMax=infinity
LimitNOFILE=524288
LimitMEMLOCK=infinity
TimeoutStopSec=1
"""


def mount(kind: str, source: str, target: str, options: str = "") -> None:
    """Mount a file system, making its mount point where it is missing."""
    Path(target).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), source, target], check=True)


def move_to_overlay() -> None:
    """Make a tmpfs over the read-only root the new root, and take the mounts along."""
    subprocess.run(["modprobe", "-d", "/kernel", "overlay"], check=True)
    mount("tmpfs", "overlay", "/overlay", "mode=755,size=50%")
    for name in ("upper", "work", "root"):
        os.mkdir(f"/overlay/{name}")
    mount("overlay", "root", "/overlay/root", "lowerdir=/,upperdir=/overlay/upper,workdir=/overlay/work")
    new = "/overlay/root"
    for target in ("/proc", "/sys", "/dev", "/kernel", CHECKOUT):
        subprocess.run(["mount", "--move", target, new + target], check=True)
    for target in ("/usr/lib/modules", "/usr/src"):
        Path(new + target).mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", f"{new}/kernel{target}", new + target], check=True)
    os.chdir(new)
    subprocess.run(["pivot_root", ".", "overlay"], check=True)
    os.chroot(".")
    os.chdir("/")
    subprocess.run(["umount", "-l", "/overlay"], check=True)
    subprocess.run(["mount", "--make-rshared", "/"], check=True)


def mount_system(with_systemd: bool) -> None:
    """Mount what a Linux system has; systemd mounts its own part itself."""
    mount("tmpfs", "run", "/run", "mode=755,nosuid,nodev")
    mount("tmpfs", "tmp", "/tmp", "mode=1777,nosuid,nodev,size=50%")
    mount("debugfs", "debugfs", "/sys/kernel/debug")
    mount("tracefs", "tracefs", "/sys/kernel/tracing")
    if with_systemd:
        return
    mount("devpts", "devpts", "/dev/pts", "mode=620,gid=5,ptmxmode=666")
    mount("tmpfs", "shm", "/dev/shm", "mode=1777,nosuid,nodev")
    mount("mqueue", "mqueue", "/dev/mqueue")
    mount("cgroup2", "cgroup2", "/sys/fs/cgroup", "nsdelegate,memory_recursiveprot")
    mount("bpf", "bpf", "/sys/fs/bpf", "mode=700")


def link_device_names() -> None:
    """Make the links in /dev that udev would make."""
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        with contextlib.suppress(FileExistsError):
            os.symlink(f"/proc/self/{target}", f"/dev/{name}")


def raise_loopback() -> None:
    """Bring up `lo`, which also gives it its addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        fcntl.ioctl(end, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def add_swap() -> None:
    """Use the disk that the host added as swap space."""
    subprocess.run(["modprobe", "-q", "virtio_blk"], check=False)
    deadline = time.monotonic() + 10
    while not Path("/dev/vda").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    subprocess.run(["mkswap", "/dev/vda"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swapon", "/dev/vda"], check=True)


def open_port() -> int:
    """Open the serial port to the host."""
    subprocess.run(["modprobe", "-q", "virtio_console"], check=False)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == frames.PORT:
                return os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.01)
    raise RuntimeError("the serial port to the host did not appear")


def write_all(port: int, data: bytes) -> None:
    """Write all bytes, however many the port takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(port, view) :]


def read_job(port: int) -> dict[str, object]:
    """Read the job: one line of JSON."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(port, 65536)
        if not more:
            time.sleep(0.01)  # the host has not connected its end yet
        line += more
    job: dict[str, object] = json.loads(line)
    return job


def relay(source: int, port: int) -> None:
    """Pass on what is readable now; return at the end or when nothing is left."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(source, 65536):
            write_all(port, frames.encode(frames.OUTPUT, data))


def run_job() -> int:
    """Run the command that the host sends, pass on its output, and report its exit status."""
    port = open_port()
    job = read_job(port)
    write_all(port, frames.encode(frames.UP))
    command, extra = job["command"], job["env"]
    assert isinstance(command, list)
    assert isinstance(extra, dict)
    env = {"PATH": PATH, "PYTHONPATH": CHECKOUT, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", **extra}
    env |= {name: os.environ[name] for name in ("INVOCATION_ID", "SYSTEMD_EXEC_PID") if name in os.environ}
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        # The search follows the job's PATH, not ours.
        os.environ["PATH"] = str(env["PATH"])
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
        )
    except OSError as error:
        reason = f"{command[0]}: {error.strerror}\n"
        write_all(port, frames.encode(frames.OUTPUT, reason.encode()))
        write_all(port, frames.encode(frames.EXIT, b"127" if isinstance(error, FileNotFoundError) else b"126"))
        return 0
    os.close(writer)
    status = wait_and_relay(process, reader, port)
    os.sync()  # pages of the checkout that were written through a mapping
    write_all(port, frames.encode(frames.EXIT, str(status).encode()))
    return 0


def wait_and_relay(process: "subprocess.Popen[bytes]", reader: int, port: int) -> int:
    """Relay until the command itself ends, even where a process that it left behind keeps the pipe open."""
    ended = os.pidfd_open(process.pid)
    os.set_blocking(reader, False)
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(reader, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if reader in ready:
            relay(reader, port)
            if ready[reader] & select.POLLHUP:
                poller.unregister(reader)
        if ended in ready:
            relay(reader, port)
            status = process.wait()
            return 128 - status if status < 0 else status


def prepare_systemd() -> None:
    """Write the job's unit and mask what is slow."""
    units = Path("/etc/systemd/system")
    for name in MASKED:
        with contextlib.suppress(FileExistsError):
            (units / name).symlink_to("/dev/null")
    (units / "agentcg-job.service").write_text(JOB_UNIT)
    Path("/etc/fstab").unlink(missing_ok=True)


def power_off() -> None:
    """End the machine."""
    ctypes.CDLL(None).reboot(LINUX_REBOOT_CMD_POWER_OFF)


def first_program() -> None:
    """Be PID 1."""
    os.environ["PATH"] = PATH
    options = Path("/proc/cmdline").read_text().split()
    with_systemd = "agentcg.systemd=1" in options
    socket.sethostname("agentcg-vm")
    move_to_overlay()
    mount_system(with_systemd)
    link_device_names()
    raise_loopback()
    if "agentcg.swap=1" in options:
        add_swap()
    if with_systemd:
        prepare_systemd()
        os.execv("/usr/lib/systemd/systemd", ["systemd", "--unit=agentcg-job.service", "--show-status=no"])
    runner = os.fork()
    if not runner:
        os._exit(run_job())
    while os.wait()[0] != runner:
        pass
    power_off()


def main() -> None:
    """Dispatch; whatever goes wrong ends the machine, with the reason on its console."""
    try:
        if "--job" in sys.argv:
            sys.exit(run_job())
        first_program()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        time.sleep(0.2)  # lets the serial line drain
        power_off()


if __name__ == "__main__":
    main()
