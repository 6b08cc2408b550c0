# SPDX-License-Identifier: Apache-2.0
"""A start after a daemon that died: what it left is taken over, whatever stands in its records."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentcg.control.adopt import adopt
from agentcg.control.lease import Lease
from agentcg.control.registry import Registry
from agentcg.model import Budget, CallRef, Intent, SessionRef
from agentcg.predict.history import Store

S1 = SessionRef("u0", "s1")
REF = CallRef(S1, "c1")
PATH = "shared/u0/s1/calls/c1"


@pytest.fixture
def after(new_registry: Callable[..., Registry], cgroups: Any, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Return a function that has one daemon begin u0/s1/c1 and die, and the next one start, and runs ``check``."""
    monkeypatch.setattr("agentcg.control.adopt.GRACE_SEC", 0.1)
    monkeypatch.setattr("agentcg.control.watch.GRACE_SEC", 0.1)

    def run(check: Any, *, meanwhile: Any = None, lease: Lease | None = None, **options: Any) -> None:
        async def first() -> None:
            registry = new_registry()
            live, _ = registry.open_session(S1, tenant="u0", owner_uid=7, **options)
            intent = Intent(memory_max=64 << 20, duration_max_sec=60)
            registry.begin(live, owner_uid=7, name="c1", tool="Bash", command="a\n\x1b", intent=intent, lease=lease)
            cgroups.enter(PATH.replace("shared", "reserved") if options.get("protected") else PATH)

        async def second() -> None:
            registry = new_registry()
            await adopt(registry)
            await check(registry)
            await registry.settle()

        asyncio.run(first())
        cgroups.poll.forget()
        if meanwhile:
            meanwhile()
        asyncio.run(second())

    return run


def test_how_an_adopted_call_is_is_told_and_not_whom_it_has_lost_before(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert registry.calls[REF].state == "throttled"
        assert registry.bus.kinds(REF) == ["call_adopted", "call_throttled"]  # type: ignore[attr-defined]
        await registry.end(REF, signal=9)
        assert registry.bus.kinds(REF)[2:] == ["call_ended"]  # type: ignore[attr-defined]

    after(check, meanwhile=lambda: cgroups.set(PATH, "memory.events", "high 2\noom_kill 1\n"))


def record(cgroups: Any, path: str, text: bytes) -> None:
    os.setxattr(cgroups.top / path, "user.agentcg", text)


def test_a_live_call_is_taken_over_as_it_was(after) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        live = registry.calls[REF]
        assert (live.call.owner_uid, live.call.tool, live.call.intent.memory_max) == (7, "Bash", 64 << 20)
        assert live.call.command == "a\n\x1b"
        assert registry.sessions[S1].session.owner_uid == 7
        assert registry.adopted == 1
        assert (await registry.end(REF, exit_code=5)).exit_code == 5
        await registry.close_session(S1, "x")

    after(check)


def test_a_lease_whose_holder_lives_goes_on(after) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        await asyncio.sleep(0.3)
        assert REF in registry.calls
        registry.drop_lease(registry.calls[REF].lease)  # type: ignore[arg-type]

    after(check, lease=Lease(os.getpid()))


def test_a_lease_whose_holder_is_gone_ends_after_its_grace(after) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert REF in registry.calls
        await asyncio.sleep(0.3)
        assert REF not in registry.calls
        assert (await registry.end(REF)).outcome == "killed"

    after(check, lease=Lease(0))


def test_an_empty_call_ends_after_its_grace(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert REF in registry.calls
        await asyncio.sleep(0.3)
        assert REF not in registry.calls

    after(check, meanwhile=lambda: cgroups.leave(PATH))


def test_a_time_limit_goes_on_counting(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        await asyncio.sleep(0.1)
        assert (await registry.end(REF)).outcome == "timed_out"

    def long_ago() -> None:
        text = json.loads(os.getxattr(cgroups.top / PATH, "user.agentcg"))
        record(cgroups, PATH, json.dumps(text | {"started": time.monotonic() - 61}).encode())

    after(check, meanwhile=long_ago)


def test_what_is_reserved_stays_reserved(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert cgroups.text("shared", "memory.max") == str(7 << 30)

    def start_over() -> None:
        cgroups.set("shared", "memory.max", "max")

    after(check, meanwhile=start_over, protected=True, budget=Budget(memory_max=1 << 30))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"call": 5}', b'{"call": {}}', b"[" * 3000])
def test_a_call_without_a_readable_record_is_left_while_it_runs(after, cgroups, text: bytes) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert not registry.calls
        assert S1 in registry.sessions
        assert (cgroups.top / PATH).is_dir()

    after(check, meanwhile=lambda: record(cgroups, PATH, text))


def test_an_empty_call_without_a_record_is_removed(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert not (cgroups.top / PATH).exists()

    def broken() -> None:
        record(cgroups, PATH, b"{}")
        cgroups.leave(PATH)

    after(check, meanwhile=broken)


def changed(cgroups: Any, path: str, **fields: Any) -> None:
    text = json.loads(os.getxattr(cgroups.top / path, "user.agentcg"))
    record(cgroups, path, json.dumps(text | fields).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"lease": {"pid": "x", "start": 1}},
        {"lease": {"pid": [1], "start": {}}},
        {"lease": {"pid": 2**70, "start": 1}},
        {"lease": "x"},
        {"started": "yesterday"},
        {"started": [1]},
        {"started": None},
        {"format": 99},
    ],
    ids=repr,
)
@pytest.mark.parametrize("path", [PATH, "shared/u0/s1"], ids=["call", "session"])
def test_a_broken_record_does_not_stop_the_start(after, cgroups, path: str, fields: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert (cgroups.top / PATH).is_dir()
        await asyncio.sleep(0.3)

    after(check, meanwhile=lambda: changed(cgroups, path, **fields), lease=Lease(0))


def test_a_record_of_another_call_is_not_believed(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert CallRef(S1, "c1") not in registry.calls
        assert (cgroups.top / "shared/u0/s1/calls/c2").is_dir()

    def renamed() -> None:
        (cgroups.top / PATH).rename(cgroups.top / "shared/u0/s1/calls/c2")

    after(check, meanwhile=renamed)


def test_a_session_without_a_record_is_swept_only_when_empty(cgroups, new_registry) -> None:  # type: ignore[no-untyped-def]
    async def run() -> None:
        cgroups.make("shared/u0/full/calls/c1")
        cgroups.enter("shared/u0/full")
        cgroups.make("shared/u0/empty/calls/c1")
        cgroups.make("shared/u1/no name/calls")
        registry = new_registry()
        await adopt(registry)
        assert not registry.sessions
        assert (cgroups.top / "shared/u0/full/calls/c1").is_dir()
        assert not (cgroups.top / "shared/u0/empty").exists()
        assert not (cgroups.top / "shared/u1").exists()

    asyncio.run(run())


def test_a_session_that_was_made_for_a_call_goes_with_it(cgroups, new_registry) -> None:  # type: ignore[no-untyped-def]
    async def first() -> None:
        registry = new_registry()
        registry.open_session(S1, tenant="u0", owner_uid=0, implicit=True, lease=Lease(os.getpid()))

    async def second() -> None:
        registry = new_registry()
        await adopt(registry)
        assert not registry.sessions
        assert not (cgroups.top / "shared/u0").exists()

    asyncio.run(first())
    asyncio.run(second())


def test_a_verdict_from_just_before_the_end_of_the_daemon_is_given_again(cgroups, new_registry, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The runtime did not get the answer, and asks the next daemon."""

    async def first() -> None:
        registry = new_registry(store=Store(str(tmp_path / "h")))
        live, _ = registry.open_session(S1, tenant="u0", owner_uid=0)
        registry.begin(live, owner_uid=0, name="c1", command="x")
        await registry.end(REF, exit_code=5)

    async def second() -> None:
        registry = new_registry(store=Store(str(tmp_path / "h")))
        await adopt(registry)
        assert (await registry.end(REF, exit_code=5)).exit_code == 5

    asyncio.run(first())
    asyncio.run(second())


def test_a_verdict_is_kept_before_its_cgroup_goes(cgroups, new_registry, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Whenever the daemon is killed, there is the one or the other."""

    async def run() -> None:
        registry = new_registry()
        live, _ = registry.open_session(S1, tenant="u0", owner_uid=0)
        registry.begin(live, owner_uid=0, name="c1", command="x")
        kept: list[int] = []
        remove = registry.tree.remove_call

        async def removing(*given: Any) -> bool:
            kept.append(len(list(registry.store.recent())))
            return await remove(*given)

        monkeypatch.setattr(registry.tree, "remove_call", removing)
        await registry.end(REF, exit_code=5)
        assert kept == [1]

    asyncio.run(run())


# What the controller of the daemon before has done


def test_what_was_frozen_goes_on(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    places = ("shared", "shared/u0/s1", PATH)

    async def check(registry: Registry) -> None:
        assert [cgroups.text(path, "cgroup.freeze") for path in places] == ["0"] * 3
        assert cgroups.text("shared/u0/s1", "memory.high") == "max"
        assert cgroups.text("shared/u0/s1", "cpu.weight") == "100"
        assert registry.calls[REF].stopped is None
        assert registry.calls[REF].entered

    def frozen() -> None:
        for path in places:
            cgroups.set(path, "cgroup.freeze", "1")
        cgroups.set("shared/u0/s1", "memory.high", "5")
        cgroups.set("shared/u0/s1", "cpu.weight", "400")

    after(check, meanwhile=frozen)


@pytest.mark.parametrize("path", [PATH, "shared/u0/s1"], ids=["call", "session"])
def test_also_what_nobody_knows(after, cgroups, path: str) -> None:  # type: ignore[no-untyped-def]
    """Its record cannot be read; it is left alone, but not frozen."""

    async def check(registry: Registry) -> None:
        assert cgroups.text(path, "cgroup.freeze") == "0"

    def frozen() -> None:
        cgroups.enter("shared/u0/s1")
        record(cgroups, path, b"{}")
        cgroups.set(path, "cgroup.freeze", "1")

    after(check, meanwhile=frozen)


def test_claims_are_known_again(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert registry.sessions[S1].claim == 1 << 30

    after(check, budget=Budget(memory_expected=1 << 30))


def test_the_claim_of_a_call_is_known_again(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert registry.calls[REF].claim == 64 << 20  # What it declared.

    after(check)


@pytest.mark.parametrize("claim", ["x", [1], None, {}, -5, 2**70, True])
def test_a_claim_that_makes_no_sense_does_not_stop_the_start(after, cgroups, claim: object) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert REF in registry.calls
        assert 0 <= int(cgroups.text("reserved/u0/s1", "memory.low")) <= 8 << 30

    def written() -> None:
        changed(cgroups, "reserved/u0/s1", claim=claim)

    after(check, meanwhile=written, protected=True)


def test_what_an_undeclared_protected_session_has_held_is_reserved_again(after, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def check(registry: Registry) -> None:
        assert cgroups.text("reserved/u0/s1", "memory.low") == str(500 << 20)
        assert cgroups.text("shared", "memory.max") == str((8 << 30) - (500 << 20))

    after(check, meanwhile=lambda: cgroups.set("reserved/u0/s1", "memory.peak", str(400 << 20)), protected=True)


def test_observers_are_told_of_what_was_adopted(after, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    class Sees:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def opened(self, live: Any) -> None:
            self.seen.append(f"opened {live.session.ref}")

        def begun(self, live: Any) -> None:
            self.seen.append(f"begun {live.ref}")

        def finished(self, live: Any) -> None:
            self.seen.append(f"finished {live.ref}")

        def closed(self, live: Any) -> None:
            self.seen.append(f"closed {live.session.ref}")

    sees = Sees()
    init = Registry.__init__

    def started(self: Registry, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        self.observers.append(sees)  # type: ignore[arg-type]

    async def check(registry: Registry) -> None:
        await registry.close_session(S1, "x")

    after(check, meanwhile=lambda: monkeypatch.setattr(Registry, "__init__", started))
    assert sees.seen == ["opened u0/s1", "begun u0/s1/c1", "finished u0/s1/c1", "closed u0/s1"]
