# SPDX-License-Identifier: Apache-2.0
"""Calls are kept in their cgroups by :mod:`agentcg.kernel.confine`, and what they try is in their verdicts."""

from __future__ import annotations

import logging

from agentcg.cgroup.delegate import Root, depth_of
from agentcg.control.live import LiveCall, LiveSession
from agentcg.control.registry import Registry
from agentcg.errors import Unsupported
from agentcg.journal import about
from agentcg.kernel.confine import Confinement
from agentcg.kernel.libbpf import BpfError

__all__ = ["Confining", "start"]

log = logging.getLogger(__name__)


def start(registry: Registry, root: Root) -> Confining | None:
    """Confine what begins from now on, and what is adopted; the log says what holds. None if it cannot be had."""
    try:
        confining = Confining(registry, root)
    except Unsupported as error:
        log.info("calls are kept in their cgroups by the kernel's permissions alone: %s", error.line)
        log.debug("%s", error.message)
        return None
    log.info("calls are kept in their cgroups by BPF programs")
    return confining


class Confining:
    """Tells the programs of calls, as an observer.

    :raises Unsupported: where it cannot be had
    """

    def __init__(self, registry: Registry, root: Root) -> None:
        self._registry = registry
        self._confinement = Confinement(depth_of(root.path))
        registry.observers.append(self)
        registry.refused_in_kernel = self._refused

    def close(self) -> None:
        """Confine nobody any more."""
        self._confinement.close()

    def opened(self, live: LiveSession) -> None:
        """Nothing to do: an agent is no call."""

    def closed(self, live: LiveSession) -> None:
        """Nothing to do, in the same way."""

    def begun(self, live: LiveCall) -> None:
        """Confine a call before anything runs in it."""
        try:
            self._confinement.add(live.leaf.id)
        except BpfError as error:
            log.warning(
                "the call %s is kept in its cgroup by the kernel's permissions alone: %s",
                live.ref,
                error.line,
                extra=about(live.ref),
            )

    def amended(self, live: LiveCall) -> None:
        """Nothing to do: what a call may not do does not change."""

    def finished(self, live: LiveCall) -> None:
        """Forget a call."""
        self._confinement.remove(live.leaf.id)

    def _refused(self, live: LiveCall) -> int:
        """Return how often a call was refused something, and tell what."""
        refused = self._confinement.refused(live.leaf.id)
        if refused:
            what = ", ".join(f"{kind.name.lower()} {count}" for kind, count in refused.items())
            self._registry.bus.publish("refused", live.ref, f"it tried to get out of its call: {what}")
        return sum(refused.values())
