# SPDX-License-Identifier: Apache-2.0
"""What a call left running in the background when its command ended: killed, adopted or left, as the policy says.

``kill``, the default, ends it with the call. ``adopt`` moves it to the agent, where it lives as long as the session and
under its limits alone. ``leave`` lets it run where it is, under the call's limits, until it ends or the session does.
Only after an ordinary end: what is left of a call that was ended, timed out, or whose runtime is gone, is killed.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from agentcg.cgroup.node import Leaf
from agentcg.control.live import LiveCall, LiveSession

if TYPE_CHECKING:
    from agentcg.control.registry import Registry

__all__ = ["adopt", "forget", "leave"]

_ATTEMPTS = 50
"""It may fork between two looks."""


def adopt(live: LiveCall) -> None:
    """Move what runs in a call to its session's agent; what will not be moved stays."""
    for _ in range(_ATTEMPTS):
        if not (pids := live.leaf.pids()):
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                live.session.node.agent.place(pid)


def leave(registry: Registry, live: LiveSession, name: str) -> None:
    """Let what runs in the call ``name`` go on there; its cgroup is removed when that has ended."""
    leaf = live.node.calls.open_leaf(name)
    leaf.write_record((leaf.read_record() or {}) | {"left": True})
    handle = registry.poll.watch_file(leaf.fd, "cgroup.events", partial(_changed, registry, live, leaf))
    live.left[name] = leaf, handle
    _changed(registry, live, leaf)


def _changed(registry: Registry, live: LiveSession, leaf: Leaf) -> None:
    if leaf.name in live.left and not leaf.populated:
        _, handle = live.left.pop(leaf.name)
        registry.poll.unwatch(handle)
        leaf.close()
        live.node.calls.remove_tree(leaf.name)


def forget(registry: Registry, live: LiveSession) -> None:
    """End what was left in a session that is closed."""
    for leaf, handle in live.left.values():
        registry.poll.unwatch(handle)
        leaf.kill()
        leaf.close()
    live.left.clear()
