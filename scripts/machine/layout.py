# SPDX-License-Identifier: Apache-2.0
"""What the test machine is made of, and where it lies on the host."""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CHECKOUT", "KERNELS", "PACKAGES", "SUITE", "Cache", "Kernel"]

CHECKOUT = Path(__file__).resolve().parents[2]
SUITE = "trixie"

PACKAGES = (
    "systemd", "dbus", "libpam-systemd", "kmod", "util-linux", "procps", "psmisc", "iproute2", "ca-certificates",
    "python3", "python3-venv", "python3-bpfcc", "gcc", "libc6-dev", "make", "git", "strace",
    "clang", "llvm", "libbpf-dev", "libbpf1", "bpftool", "docker.io", "docker-cli", "stress-ng",
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """A stock kernel: its short name, the suites it may come from, and what it is for."""

    name: str
    suites: tuple[str, ...]
    purpose: str


KERNELS = {
    "backports": Kernel("backports", (f"{SUITE}-backports",), "the newest one, with sched_ext"),
    "stable": Kernel("stable", (SUITE, f"{SUITE}-updates", f"{SUITE}-security"), "what Debian 13 users run"),
}


@dataclass(frozen=True)
class Cache:
    """The folder that holds the root file system, the kernels and the logs."""

    top: Path

    @classmethod
    def default(cls) -> "Cache":
        """Return the cache under `$XDG_CACHE_HOME`, or under `~/.cache` where that is not set."""
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return cls(Path(base).absolute() / "agentcg" / "vm")

    @property
    def root(self) -> Path:
        """The guest's root file system."""
        return self.top / "root"

    @property
    def venv(self) -> Path:
        """The guest's virtual environment, as the host sees it."""
        return self.root / "opt/agentcg/venv"

    @property
    def logs(self) -> Path:
        """Build logs and the consoles of the last runs."""
        return self.top / "log"

    @property
    def lock(self) -> Path:
        """Held exclusively by a build and shared by every running machine."""
        return self.top / "lock"

    @property
    def accelerator(self) -> Path:
        """The result of the trial boot with KVM."""
        return self.top / "accelerator.json"

    def kernel(self, name: str) -> Path:
        """Return the tree of one kernel: its image, modules and headers."""
        return self.top / "kernels" / name
