# SPDX-License-Identifier: Apache-2.0
"""Swap for the isolation bench: a zram device, what of it an arm may use, and what that comes to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from agentcg.cgroup import files
from agentcg.errors import Unsupported
from benches.harness import Stage
from benches.isolation_arms import MIB, ArmAround, BenchArm, Figures
from benches.isolation_run import Build
from benches.isolation_sessions import MB
from benches.place import is_vm

__all__ = ["COLD", "HOT", "POLICY", "POOL", "SWAP", "SwapArm", "Zram", "swapping", "zram_of"]

SWAP = 275 * MB
"""What the sessions of an arm may have in swap, a quarter of their limit; it is the size of the device, too."""
POOL = 100 * MB
"""What zram may take for that: a third, and what its allocator loses."""
COLD: tuple[str, ...] = ("--compressible", "68")
"""What memory is like: it compresses three to one, as that of Google's servers did (Lagar-Cavilla et al.,
"Software-Defined Far Memory in Warehouse-Scale Computers", ASPLOS 2019) and, almost, that of ChromeOS (Semenzato,
"zram, zsmalloc, and Chrome OS", linux-mm, 2013). Nobody comes back to it."""
HOT = (*COLD, "--hot", "68")
"""The same, but two thirds are in use: 32 % of Google's was not touched for two minutes."""
POLICY = str(Path(__file__).with_suffix(".toml"))
"""The daemon's default policy, with as much swap."""
_PAGE = 4096
_CONTROL = Path("/sys/class/zram-control")


class Zram:
    """A zram device. :param directory: in /sys/block"""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def algorithm(self) -> str:
        """What it compresses with."""
        return (self._directory / "comp_algorithm").read_text().partition("[")[2].partition("]")[0]

    def forget_peak(self) -> None:
        """From now on the peak is another."""
        (self._directory / "mem_used_max").write_text("0")

    def peak(self) -> int:
        """Return the most memory that it took, in bytes (Documentation/admin-guide/blockdev/zram.rst, mm_stat)."""
        return int((self._directory / "mm_stat").read_text().split()[4])


def zram_of(stage: Stage) -> Zram:
    """Return the zram device that is swap space while a stage lasts; the first that asks makes it.

    :raises Unsupported: where there can be none
    """
    if "zram" not in stage.shared:
        zram = stage.shared["zram"] = stage.enter_context(_zram())
        stage.notes.append(f"swap: {SWAP // MB} MB of zram, {zram.algorithm}, in {POOL // MB} MB at most")
    made: Zram = stage.shared["zram"]
    return made


@contextmanager
def _zram() -> Iterator[Zram]:
    if not is_vm():
        raise Unsupported(
            "swap is of a whole machine: this part adds it to a virtual one only",
            hint="scripts/vm run --memory 4G -- python scripts/bench isolation --parts swap",
        )
    if not _CONTROL.is_dir():
        _run("modprobe", "zram", "num_devices=0")
    with ExitStack() as stack:
        try:
            number = int((_CONTROL / "hot_add").read_text())
            stack.callback((_CONTROL / "hot_remove").write_text, str(number))
            directory = Path(f"/sys/block/zram{number}")
            (directory / "mem_limit").write_text(str(POOL))
            (directory / "disksize").write_text(str(SWAP + _PAGE))  # A page is mkswap's.
        except OSError as error:
            raise _missing(str(error)) from error
        _run("mkswap", f"/dev/zram{number}")
        _run("swapon", f"/dev/zram{number}")
        stack.callback(_run, "swapoff", f"/dev/zram{number}")
        yield Zram(directory)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise _missing(f"there is no {command[0]}") from error
    except subprocess.CalledProcessError as error:
        raise _missing(f"{' '.join(command)}: {error.stderr.strip()}") from error


def _missing(what: str) -> Unsupported:
    hint = "it takes a kernel with zram (CONFIG_ZRAM), its modules, kmod and util-linux"
    return Unsupported(f"no zram device can be made swap space: {what}", hint=hint)


def swapping(build: Build) -> Build:
    """Let an arm swap. The kernel charges nobody for zram's own memory: it comes off what the arm has."""
    return lambda scene: build(replace(scene, memory_max=scene.memory_max - POOL, swap_max=SWAP))


class SwapArm(ArmAround):
    """An arm beside a zram device, that says how much of it was used."""

    def __init__(self, arm: BenchArm, zram: Zram) -> None:
        super().__init__(arm)
        self._zram = zram

    async def __aenter__(self) -> SwapArm:
        self._zram.forget_peak()
        await super().__aenter__()
        return self

    def figures(self) -> Figures:
        swapped = files.read_int(self.node.fd, "memory.swap.peak")
        return {
            **super().figures(),
            "swap_peak_mib": None if swapped is None else swapped / MIB,
            "zram_peak_mib": self._zram.peak() / MIB,
        }
