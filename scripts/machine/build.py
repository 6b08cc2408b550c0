# SPDX-License-Identifier: Apache-2.0
"""Builds the root file system, the two kernels and the virtual environment, each only when its inputs changed."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machine import apt, host, python, stamp
from machine.errors import MachineError, say
from machine.layout import CHECKOUT, KERNELS, PACKAGES, SUITE, Cache, Kernel
from machine.process import run_logged

__all__ = ["build", "is_built"]

_INIT = Path(__file__).with_name("init")
_SHARE_POINTS = ("agentcg", "kernel", "overlay")
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class Step:
    """A tree, the hash of what it is made from, and how it is made."""

    name: str
    tree: Path
    inputs: str
    make: Callable[[], None]


def steps(cache: Cache) -> list[Step]:
    """Return the build's steps in order."""
    requirements, scripts = python.project(CHECKOUT / "pyproject.toml")
    root = stamp.digest("root", 2, SUITE, PACKAGES, _LEFT_OUT)
    packages = python.RUNTIMES, python.ALONE, python.APART, python.APART_ALONE
    venv = stamp.digest("venv", 5, root, requirements, *packages, scripts)
    found = [Step("the root file system", cache.root, root, lambda: make_root(cache, root))]
    for kernel in KERNELS.values():
        inputs = stamp.digest("kernel", 2, kernel.name, kernel.suites)
        found.append(
            Step(f"the kernel {kernel.name}", cache.kernel(kernel.name), inputs, kernel_maker(cache, kernel, inputs))
        )
    found.append(
        Step("the virtual environment", cache.venv, venv, lambda: make_venv(cache, venv, requirements, scripts))
    )
    return found


def kernel_maker(cache: Cache, kernel: Kernel, inputs: str) -> Callable[[], None]:
    """Bind one kernel to its step."""
    return lambda: make_kernel(cache, kernel, inputs)


def is_built(cache: Cache) -> bool:
    """Tell whether everything is there and made from today's inputs."""
    init = cache.root / "sbin/agentcg-init"
    current = init.exists() and init.read_bytes() == _INIT.read_bytes()
    return current and all(stamp.is_fresh(step.tree, step.inputs) for step in steps(cache))


def build(cache: Cache, force: bool = False) -> None:
    """Build what is missing or stale; the caller holds the lock exclusively."""
    for folder in (cache.top, cache.top / "kernels", cache.venv.parent):
        stamp.remove_leftovers(folder)
    for step in steps(cache):
        if not force and stamp.is_fresh(step.tree, step.inputs):
            continue
        host.check_space(cache)
        say(f"building {step.name}")
        began = time.monotonic()
        try:
            step.make()
        except OSError as error:
            raise MachineError(f"{step.name}: {error}", apt.explain([str(error)])) from error
        finally:
            for folder in (cache.top, cache.top / "kernels", cache.venv.parent):
                stamp.remove_leftovers(folder)
        version = stamp.read(step.tree).get("version", "")
        say(f"built {step.name}{version and ' ' + version} in {time.monotonic() - began:.0f} s")
    place_init(cache)


def place_init(cache: Cache) -> None:
    """Copy the guest's first program into the root file system."""
    half = cache.root / "sbin/agentcg-init.new"
    shutil.copyfile(_INIT, half)
    half.chmod(0o755)
    half.rename(cache.root / "sbin/agentcg-init")


def checked(name: str, command: list[str], log: Path) -> None:
    """Run one command of a build, and turn its failure into an error with the end of its log."""
    status, tail = run_logged(command, log)
    if status:
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise MachineError(f"{name} failed ({how}); the whole log is in {log}", apt.explain(tail), tail)


def host_options() -> list[str]:
    """Return the host's apt options for reaching its mirror."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    return apt.host_options(dump.stdout)


def make_root(cache: Cache, inputs: str) -> None:
    """Make the root file system with mmdebstrap."""
    half = stamp.temporary(cache.root)
    listing = cache.top / "sources.list"
    listing.write_text(apt.sources(apt.host_mirrors(), (SUITE, f"{SUITE}-updates", f"{SUITE}-security")))
    command = [
        host.find("mmdebstrap"), "--mode=root", "--variant=minbase", "--architectures=amd64",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *(f"--aptopt={option}" for option in host_options()),
        SUITE, str(half), str(listing),
    ]  # fmt: skip
    checked("mmdebstrap", command, cache.logs / "build-root.log")
    for name in _SHARE_POINTS:
        (half / name).mkdir()
    (half / "etc/machine-id").write_text("")
    stamp.write(half, inputs)
    stamp.replace(cache.root, half)


def make_kernel(cache: Cache, kernel: Kernel, inputs: str) -> None:
    """Unpack the newest kernel of its suites, with its modules and headers."""
    half = stamp.temporary(cache.kernel(kernel.name))
    work = half / "apt"
    index = apt.Index(work, kernel.suites, apt.host_mirrors(), host_options())
    index.update()
    packages = apt.kernel_packages(index)
    index.download(packages, work)
    for archive in sorted(work.glob("*.deb")):
        checked("dpkg", ["dpkg", "-x", str(archive), str(half)], cache.logs / f"build-{kernel.name}.log")
    shutil.rmtree(work)
    # Debian moved both between 6.12 and 7.3: modprobe -d and depmod -b of either age find them now.
    if (half / "lib").is_dir():
        shutil.copytree(half / "lib", half / "usr/lib", symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(half / "lib")
    (half / "lib").symlink_to("usr/lib")
    images = {path.name.removeprefix("vmlinuz-"): path for path in half.glob("boot/vmlinuz-*")}
    images |= {path.parent.name: path for path in half.glob("usr/lib/modules/*/vmlinuz")}
    if len(images) != 1:
        names = ", ".join(one.name for one in packages)
        raise MachineError(
            f"{len(images)} kernels in {names}", "the packages' layout changed: mend make_kernel in build.py"
        )
    ((release, image),) = images.items()
    (half / "vmlinuz").hardlink_to(image)
    bind = f'mount --bind "{half}" "{cache.root}/kernel" && exec chroot "{cache.root}" depmod -b /kernel "{release}"'
    checked("depmod", ["sh", "-c", bind], cache.logs / f"build-{kernel.name}.log")
    stamp.write(half, inputs, version=release)
    stamp.replace(cache.kernel(kernel.name), half)


def make_venv(cache: Cache, inputs: str, requirements: list[str], scripts: dict[str, str]) -> None:
    """Make the virtual environment with the guest's Python and the host's pip configuration."""
    cache.venv.parent.mkdir(parents=True, exist_ok=True)
    half = stamp.temporary(cache.venv)
    settings = python.pip_settings(python.host_pip_files(), os.environ)
    script = python.venv_script(cache.root, half, requirements, settings)
    checked("pip", ["sh", "-c", script], cache.logs / "build-venv.log")
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        path = half / "bin" / name
        path.write_text(
            f"#!/opt/agentcg/venv/bin/python\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        )
        path.chmod(0o755)
    stamp.write(half, inputs)
    if cache.venv.exists() and not stamp.read(cache.venv):
        shutil.rmtree(cache.venv)  # only the mount point of the build
    stamp.replace(cache.venv, half)
