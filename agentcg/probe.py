# SPDX-License-Identifier: Apache-2.0
"""What this host can enforce, rung by rung, found by looking and trying and never by a version number.

The rungs: *observe* (read usage), *cgroup* (limit, freeze, kill), *network* (BPF on a call's sockets), *events* (BPF
tracing of the memory paths), *scheduler* (sched_ext), *memcg-ops* (BPF in the memory controller); and beside them
*transparent* (BPF stops what agents execute) and *confine* (BPF LSM).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentcg.cgroup import files
from agentcg.cgroup.delegate import CONTROLLERS, Mounts, find_mounts
from agentcg.cgroup.node import Inner
from agentcg.control.guard import guard_path
from agentcg.errors import Unsupported
from agentcg.kernel import confine, executions, mem, memcg_ops, net, sched
from agentcg.kernel.libbpf import LIBBPF, STRUCT_OPS, TRACING, require
from agentcg.kernel.links import ways_out
from agentcg.kernel.oomd import HOOKS, hook_timeout, systemd_runs

__all__ = ["Check", "Rung", "probe"]

_BTF = "/sys/kernel/btf/vmlinux"
_SCHED_EXT = "/sys/kernel/sched_ext"

_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39
_TRIAL = f"agentcg-doctor-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    holds: bool
    found: str
    fix: str = ""
    needed: bool = True
    """Without it the rung does not hold; otherwise the rung holds with less."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder."""

    name: str
    gives: str
    used: bool
    """This version of agentcg makes use of it."""
    checks: list[Check] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether everything that the rung needs is there."""
        return all(check.holds for check in self.checks if check.needed)


def probe(*, proc: str = "/proc", btf: str = _BTF, libbpf: str = LIBBPF, sched_ext: str = _SCHED_EXT) -> list[Rung]:
    """Return the ladder as found here. A cgroup is made and removed for the trial where that is allowed."""
    mounts = find_mounts(Path(proc, "self/mountinfo").read_text())
    types = _BtfNames(btf)
    return [
        Rung("observe", "usage of every call, and warnings", True, [_mounted(mounts)]),
        Rung(
            "cgroup",
            "limits, freeze and kill for every call",
            True,
            [_mounted(mounts), *_cgroup(mounts), _guard(), _prekill()],
        ),
        Rung("network", "what a call may send, where it or the policy says so", True, _network(mounts, libbpf)),
        Rung(
            "events",
            "with --events: who charges, stalls and is killed, in microseconds",
            True,
            _tracing(types, proc, libbpf),
        ),
        Rung(
            "transparent",
            "with session run --transparent: what an agent executes becomes a call by itself",
            True,
            _transparent(types, proc, libbpf),
        ),
        Rung(
            "scheduler",
            "with --scheduler: CPU time by class, and holds under memory pressure",
            True,
            _scheduler(types, proc, libbpf, sched_ext),
        ),
        Rung(
            "confine",
            "with --confine: calls cannot leave their cgroups nor trace others, and what they try is counted",
            True,
            _confine(types, proc, libbpf),
        ),
        Rung("memcg-ops", "the memory controller's own decisions", False, [_memcg_ops(types)]),
    ]


def _mounted(mounts: Mounts) -> Check:
    fix = "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"
    found = f"on {mounts.unified}" if mounts.unified else "not mounted"
    return Check("cgroup v2", mounts.unified is not None, found, "" if mounts.unified else fix)


def _cgroup(mounts: Mounts) -> list[Check]:
    if mounts.unified is None:
        return []
    checks = [_controller(mounts, name) for name in CONTROLLERS]
    try:
        with Inner.open_root(mounts.unified) as top, top.make_leaf(_TRIAL) as trial:
            try:
                checks += [_file(trial.fd, *wanted) for wanted in _FILES]
            finally:
                top.remove(_TRIAL)
    except OSError as error:
        fix = "run as root, or in a delegated cgroup" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""
        checks.append(Check("making a cgroup", False, error.strerror or str(error), fix))
    pressure = os.access("/proc/pressure/memory", os.R_OK)
    fix = "" if pressure else "boot with psi=1"
    checks.append(Check("pressure (PSI)", pressure, "accounted" if pressure else "off", fix, needed=False))
    return checks


_FILES = (
    ("cgroup.kill", "kills a whole call at once", "Linux 5.14 or later"),
    ("cgroup.freeze", "stops a call at the border to user space", "Linux 5.2 or later"),
)


def _file(directory: int, name: str, why: str, where: str) -> Check:
    there = files.exists(directory, name)
    return Check(name, there, why if there else "missing", "" if there else where)


def _controller(mounts: Mounts, name: str) -> Check:
    needed = name == "memory"
    text = Path(mounts.unified or "/", "cgroup.controllers").read_text()
    if name in text.split():
        return Check(f"{name} controller", True, "available", needed=needed)
    if name in mounts.v1_controllers:
        fix = "boot with systemd.unified_cgroup_hierarchy=1, or unmount the v1 hierarchies"
        return Check(f"{name} controller", False, "held by cgroup v1", fix, needed)
    fix = f"add it to the parent's cgroup.subtree_control; take cgroup_disable={name} off the kernel's command line"
    return Check(f"{name} controller", False, "not available", fix, needed)


def _tracing(types: _BtfNames, proc: str, libbpf: str) -> list[Check]:
    kinds = {kind for name, given in mem.hooks().items() if types.has(name) for kind in given}
    missing = [kind.name.lower().replace("_", " ") for kind in mem.Kind if kind not in kinds]
    found = "all there" if not missing else f"no {', '.join(missing)}"
    return [
        _btf(types),
        _capability(proc),
        _try("libbpf", lambda: require(TRACING, "tracing", name=libbpf)),
        _try("BPF programs", lambda: mem.check_object().name),
        Check("memory hooks", bool(kinds), found, "", needed=False),
    ]


def _network(mounts: Mounts, libbpf: str) -> list[Check]:
    checks = [
        _mounted(mounts),
        _try("libbpf", lambda: require(TRACING, "programs of cgroups", name=libbpf)),
        _try("BPF programs", lambda: net.check_object().name),
    ]
    if all(check.holds for check in checks):
        checks.append(_try("loading them", _load_network))
    return [*checks, _pacing()]


def _load_network() -> str:
    net.NetworkPrograms().close()
    return "works"


def _pacing() -> Check:
    try:
        ways = ways_out()
    except Unsupported as error:
        return Check("pacing by fq", False, error.message, needed=False)
    found = ", ".join(f"{name}: {' and '.join(sorted(kinds))}" for name, kinds in sorted(ways.items()))
    fixes = [f"tc qdisc replace dev {name} root fq" for name, kinds in sorted(ways.items()) if kinds != {"fq"}]
    fix = f"{fixes[0]}: what is above a rate waits then, and is not dropped" if fixes else ""
    return Check("pacing by fq", not fixes, found or "no default route", fix, needed=False)


def _transparent(types: _BtfNames, proc: str, libbpf: str) -> list[Check]:
    return [
        _btf(types),
        _capability(proc),
        _try("libbpf", lambda: require(TRACING, "tracing", name=libbpf)),
        _try("BPF programs", lambda: executions.check_object().name),
        _try("guard", guard_path),
        _try("pid namespace", executions.check_pid_namespace),
    ]


def _try(name: str, attempt: Callable[[], str], *, needed: bool = True) -> Check:
    try:
        return Check(name, True, attempt(), needed=needed)
    except Unsupported as error:
        return Check(name, False, error.message.partition("\n")[0], error.hint, needed)


def _guard() -> Check:
    found = _try("guard", guard_path, needed=False)
    return found if found.holds else replace(found, found=f"{found.found}: nothing is frozen without it")


def _prekill() -> Check:
    name = "systemd-oomd tells first"
    if not systemd_runs():
        return Check(name, False, "systemd does not run here", needed=False)
    where = next(path for path in (HOOKS, os.path.dirname(HOOKS), "/") if os.path.isdir(path))
    if not os.access(where, os.W_OK):
        return Check(name, False, f"may not write to {where}", "run as root", needed=False)
    timeout = hook_timeout()
    if timeout is None:
        fix = "with systemd 260 or later, set PrekillHookTimeoutSec=2s in /etc/systemd/oomd.conf"
        return Check(name, False, "it is not set up to", fix, needed=False)
    return Check(name, True, f"in {HOOKS}, and waits for {timeout}", needed=False)


def _scheduler(types: _BtfNames, proc: str, libbpf: str, directory: str) -> list[Check]:
    there = types.has("sched_ext_ops") and os.path.isdir(directory)
    fix = "" if there else "a kernel with CONFIG_SCHED_CLASS_EXT: Debian has one in backports, Ubuntu since 24.10"
    return [
        _btf(types),
        _capability(proc),
        Check("sched_ext", there, "built in" if there else "not built in", fix),
        *([_no_other(directory), _policy()] if there else []),
        _try("libbpf", lambda: require(STRUCT_OPS, "struct_ops", name=libbpf)),
        _try("BPF programs", lambda: sched.check_object().name),
    ]


def _no_other(directory: str) -> Check:
    state, running = (_line(directory, name) for name in ("state", "root/ops"))
    free = state in ("disabled", "") or running.startswith("agentcg")
    fix = "" if free else "stop the other BPF scheduler first"
    return Check("no other BPF scheduler", free, f"{state}: {running}" if running else state, fix)


def _line(directory: str, name: str) -> str:
    try:
        return Path(directory, name).read_text().strip()
    except OSError:
        return ""


def _policy() -> Check:
    # For this thread and a moment; a task of that policy without a BPF scheduler is the fair scheduler's.
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, sched.SCHED_EXT, os.sched_param(0))
        os.sched_setscheduler(0, *before)
    except OSError as error:
        fix = "let the container use sched_setscheduler(2): docker run --cap-add=SYS_NICE"
        return Check("SCHED_EXT policy", False, error.strerror or str(error), fix)
    return Check("SCHED_EXT policy", True, "allowed")


def _confine(types: _BtfNames, proc: str, libbpf: str) -> list[Check]:
    return [
        _btf(types),
        _capability(proc),
        _try("BPF LSM", confine.check_lsm),
        _try("libbpf", lambda: require(TRACING, "tracing", name=libbpf)),
        _try("BPF programs", lambda: confine.check_object().name),
    ]


def _memcg_ops(types: _BtfNames) -> Check:
    name = memcg_ops.STRUCTURE
    if not types.has(name):
        return Check(name, False, "not in BTF", "no released kernel has it yet: it is an RFC on the linux-mm list")
    missing = [member for member in memcg_ops.MEMBERS if not types.has(member)]
    if missing:
        return Check(name, False, f"in BTF, without {', '.join(missing)}", "it is of another version of the RFC")
    return Check(name, True, "in BTF")


def _btf(types: _BtfNames) -> Check:
    fix = "" if types.there else "a kernel with CONFIG_DEBUG_INFO_BTF=y, as every distribution's is"
    return Check("BTF", types.there, "available" if types.there else "missing", fix)


def _capability(proc: str) -> Check:
    status = Path(proc, "self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    admin = bool(effective >> _CAP_SYS_ADMIN & 1)
    may = admin or bool(effective >> _CAP_BPF & 1 and effective >> _CAP_PERFMON & 1)
    return Check("CAP_BPF", may, "held" if may else "not held", "" if may else "run as root")


class _BtfNames:
    """Names in the kernel's type information: its string section holds each once, between NUL bytes."""

    def __init__(self, path: str) -> None:
        self._has: Callable[[bytes], bool] = lambda name: False
        try:
            data = Path(path).read_bytes()
        except OSError:
            self.there = False
            return
        self.there = True
        self._has = data.__contains__

    def has(self, name: str) -> bool:
        """Whether a type, function or member of that name is there."""
        return self._has(b"\0" + name.encode() + b"\0")
