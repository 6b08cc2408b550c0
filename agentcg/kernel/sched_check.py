# SPDX-License-Identifier: Apache-2.0
"""Whether :mod:`agentcg.kernel.sched` can be had here and now."""

from __future__ import annotations

from pathlib import Path

from agentcg.errors import Unsupported
from agentcg.kernel.build_bpf import object_path, require_object
from agentcg.kernel.libbpf import Object, kernel_btf

__all__ = ["check_kernel", "check_object", "check_types"]

NAME = "agentcg_sched"

_SYSFS = Path("/sys/kernel/sched_ext")
# What is compiled in because CO-RE cannot relocate it, and what the programs cannot do without.
_FLAGS = ("SCX_OPS_ENQ_LAST", "SCX_OPS_SWITCH_PARTIAL")
_FUNCTIONS = ("scx_bpf_dsq_insert_vtime", "scx_bpf_dsq_move_to_local", "scx_bpf_dsq_move_vtime")


def check_object() -> Path:
    """Return where the compiled programs are. :raises Unsupported: if they are not there"""
    return require_object(object_path(NAME))


def check_kernel(sysfs: Path = _SYSFS) -> None:
    """Look whether a scheduler can be loaded now. :raises Unsupported: saying why it cannot"""
    try:
        state = (sysfs / "state").read_text().strip()
    except OSError as error:
        raise Unsupported(
            "this kernel has no sched_ext", hint="use one with CONFIG_SCHED_CLASS_EXT=y, which v6.12 was the first with"
        ) from error
    if state == "disabled":
        return
    try:
        name = f" ({(sysfs / 'root/ops').read_text().strip()})"
    except OSError:
        name = ""
    raise Unsupported(f"another sched_ext scheduler is loaded{name}", hint="end it: a kernel runs one at a time")


def check_types(programs: Object) -> None:
    """Compare with the kernel's types. :raises Unsupported: if it has not what the programs need"""
    types = kernel_btf()
    try:
        missing = [name for name in _FUNCTIONS if not types.has_function(name)]
        if missing:
            raise Unsupported(f"the kernel's sched_ext has no {missing[0]}", hint="use v6.13 or later")
        theirs, ours = (one.enumeration("scx_ops_flags") for one in (types, programs.btf))
    finally:
        types.close()
    if moved := [name for name in _FLAGS if theirs.get(name) != ours[name]]:
        raise Unsupported(f"the kernel's sched_ext has another {moved[0]}", hint="report its version")
