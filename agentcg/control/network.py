# SPDX-License-Identifier: Apache-2.0
"""What calls may use of the network: BPF programs on the cgroup of each call that is limited, and on no other.

They are loaded for the first such call, and stay on its cgroup whatever becomes of the daemon.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from agentcg.cgroup.node import Leaf
from agentcg.errors import Unsupported
from agentcg.kernel.net import NetworkPrograms
from agentcg.model import Limits, Usage
from agentcg.policy.decide import Decision
from agentcg.units import format_rate

__all__ = ["Network"]

log = logging.getLogger(__name__)


class Network:
    """The limits of all calls."""

    def __init__(self) -> None:
        self._programs: NetworkPrograms | None = None
        self._missing = ""  # Why they cannot be had.

    def close(self) -> None:
        """Forget the programs. Calls that are limited stay so."""
        if self._programs is not None:
            self._programs.close()
            self._programs = None

    def possible(self, decision: Decision) -> Decision:
        """Return ``decision`` as far as it can be had on this host; a note says what cannot."""
        rate = decision.limits.network_rate
        if rate is None or self._load() is not None:
            return decision
        note = f"network: {format_rate(rate)} is not enforced: {self._missing}"
        limits = replace(decision.limits, network_rate=None)
        return replace(decision, limits=limits, notes=[*decision.notes, note])

    def limit(self, leaf: Leaf, limits: Limits, before: Limits | None = None) -> None:
        """Limit a call, if it is to be and is not limited so by ``before``.

        :raises OSError: what the kernel refused; the call is as before
        """
        rate = limits.network_rate
        if rate is not None and (before is None or rate != before.network_rate) and (programs := self._load()):
            programs.limit(leaf.fd, leaf.id, rate)

    def adopt(self, leaf: Leaf, limits: Limits) -> None:
        """Find the counters of a call that a daemon before this one has limited."""
        if limits.network_rate is not None:
            self._load(leaf.fd)

    def counted(self, leaf: Leaf, limits: Limits, usage: Usage) -> Usage:
        """Return ``usage`` with what a call used of the network, if it is limited."""
        if limits.network_rate is None or self._programs is None:
            return usage
        counters = self._programs.counters(leaf.id)
        if counters is None:
            return usage
        return replace(
            usage,
            network_sent_bytes=counters.sent_bytes,
            network_received_bytes=counters.received_bytes,
            network_dropped_packets=counters.dropped_packets,
            network_refused=counters.refused,
        )

    def _load(self, beside: int | None = None) -> NetworkPrograms | None:
        """Return the programs; once it is known that they cannot be had, None."""
        if self._programs is None and not self._missing:
            try:
                self._programs = NetworkPrograms(beside)
            except Unsupported as error:
                reason, _, detail = error.message.partition("\n")
                self._missing = f"{reason} ({error.hint})" if error.hint else reason
                log.warning("what calls send is not limited: %s", self._missing)
                log.debug("%s", detail)
            else:
                log.info("what calls send is limited where they or the policy say so")
        return self._programs
