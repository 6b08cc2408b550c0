# SPDX-License-Identifier: Apache-2.0
"""When calls are limited in what they send, and what is said where they cannot be."""

import asyncio
import logging
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from agentcg.control import network
from agentcg.control.adopt import adopt
from agentcg.errors import Unsupported
from agentcg.kernel.libbpf import BpfError
from agentcg.kernel.net import Counters
from agentcg.model import CallRef, Intent, SessionRef
from agentcg.policy.load import load

REF = CallRef(SessionRef("u0", "s1"), "c1")
MIB = 1 << 20
COUNTERS = Counters(sent_bytes=7, received_bytes=6, dropped_packets=5, refused=4)


class FakePrograms:
    """Stands for NetworkPrograms: the kernel, in which limits outlive the processes that made them."""

    made: ClassVar[list["FakePrograms"]] = []
    limited: ClassVar[dict[int, list[int]]] = {}
    refuse: ClassVar[Exception | None] = None

    def __init__(self, beside: int | None = None) -> None:
        if isinstance(self.refuse, Unsupported):
            raise self.refuse
        self.beside, self.closed = beside, False
        self.made.append(self)

    def limit(self, directory: int, cgroup_id: int, rate: int) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.limited.setdefault(cgroup_id, []).append(rate)

    def counters(self, cgroup_id: int) -> Counters | None:
        return COUNTERS if cgroup_id in self.limited else None

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def programs(monkeypatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(network, "NetworkPrograms", FakePrograms)
    for name, empty in (("made", []), ("limited", {}), ("refuse", None)):
        monkeypatch.setattr(FakePrograms, name, empty)
    return FakePrograms


def begin(registry: Any, **declared: Any) -> Any:
    live = registry.sessions.get(REF.session)
    if live is None:
        live = registry.open_session(REF.session, tenant="u0", owner_uid=0)[0]
    return registry.begin(live, owner_uid=0, name="c1", command="x", intent=Intent(**declared))


async def end(registry: Any) -> Any:
    verdict = await registry.end(REF, exit_code=0)
    await registry.close_session(REF.session, "over")
    return verdict


def used(verdict: Any) -> tuple[int | None, ...]:
    usage = verdict.usage
    return (
        usage.network_sent_bytes,
        usage.network_received_bytes,
        usage.network_dropped_packets,
        usage.network_refused,
    )


def test_a_call_that_declares_nothing_costs_nothing(programs, new_registry) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        registry = new_registry()
        _, decision = begin(registry)
        assert (decision.limits.network_rate, decision.notes) == (None, [])
        assert used(await end(registry)) == (None,) * 4
        assert programs.made == []

    asyncio.run(main())


def test_a_call_is_limited_once_and_again_when_its_rate_changes(programs, new_registry) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        registry = new_registry()
        live, decision = begin(registry, network_rate=10 * MIB)
        assert (decision.limits.network_rate, decision.notes) == (10 * MIB, [])
        registry.amend(REF, Intent(memory_max=64 * MIB))
        registry.amend(REF, Intent(network_rate=0))
        assert programs.limited == {live.leaf.id: [10 * MIB, 0]}
        assert used(await end(registry)) == (7, 6, 5, 4)
        assert len(programs.made) == 1
        registry.network.close()
        assert programs.made[0].closed

    asyncio.run(main())


def test_a_running_call_may_begin_to_be_limited(programs, new_registry) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        registry = new_registry()
        live, _ = begin(registry)
        registry.amend(REF, Intent(network_rate=0))
        assert programs.limited == {live.leaf.id: [0]}
        await end(registry)

    asyncio.run(main())


def test_a_policy_limits_calls_that_declare_nothing(programs, new_registry) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        policy = load("default")
        offline = replace(policy, classes={**policy.classes, "default": replace(policy.classes["default"], network=0)})
        live, decision = begin(registry := new_registry(policy=offline))
        assert decision.limits.network_rate == 0
        assert programs.limited == {live.leaf.id: [0]}
        await end(registry)

    asyncio.run(main())


def test_where_it_cannot_be_had_a_note_and_the_log_say_why(programs, new_registry, caplog) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        programs.refuse = Unsupported("there is no libbpf\nwith a long log", hint="install it")
        registry = new_registry()
        _, decision = begin(registry, network_rate=0)
        assert decision.limits.network_rate is None
        assert decision.notes == ["network: none is not enforced: there is no libbpf (install it)"]
        decision = registry.amend(REF, Intent(network_rate=MIB))
        assert decision.notes == ["network: 1.0 MiB/s is not enforced: there is no libbpf (install it)"]
        assert used(await end(registry)) == (None,) * 4

    with caplog.at_level(logging.WARNING, "agentcg"):
        asyncio.run(main())
    assert caplog.messages == ["what calls send is not limited: there is no libbpf (install it)"]


def test_a_limit_that_the_kernel_refuses_leaves_no_call_behind(programs, new_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        programs.refuse = BpfError("attaching net_egress", 7)
        registry = new_registry()
        with pytest.raises(BpfError, match="attaching net_egress"):
            begin(registry, network_rate=0)
        assert registry.calls == {}
        assert not (cgroups.top / "shared/u0/s1/calls/c1").exists()
        live, _ = begin(registry, memory_max=64 * MIB)
        with pytest.raises(BpfError):
            registry.amend(REF, Intent(network_rate=0, memory_max=32 * MIB))
        assert (live.call.limits.network_rate, live.call.limits.memory_max) == (None, 64 * MIB)
        await end(registry)

    asyncio.run(main())


def test_the_next_daemon_finds_the_counters(programs, new_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        first = new_registry()
        live, _ = begin(first, network_rate=0)
        cgroups.enter("shared/u0/s1/calls/c1")
        cgroups.poll.forget()
        second = new_registry()
        await adopt(second)
        found = second.calls[REF]
        assert programs.made[1].beside == found.leaf.fd
        assert programs.limited == {live.leaf.id: [0]}  # As it was: not once more.
        assert used(await end(second)) == (7, 6, 5, 4)

    asyncio.run(main())


def test_the_next_daemon_loads_nothing_for_calls_that_are_not_limited(programs, new_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        begin(new_registry())
        cgroups.enter("shared/u0/s1/calls/c1")
        cgroups.poll.forget()
        second = new_registry()
        await adopt(second)
        assert REF in second.calls
        assert programs.made == []
        await end(second)

    asyncio.run(main())
