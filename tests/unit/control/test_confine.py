# SPDX-License-Identifier: Apache-2.0
import asyncio
from types import SimpleNamespace
from typing import ClassVar

import pytest

from agentcg.control import confine
from agentcg.errors import Unsupported
from agentcg.kernel.confine import Kind
from agentcg.kernel.libbpf import BpfError
from agentcg.model import CallRef, SessionRef

REF = CallRef(SessionRef("u0", "s1"), "c1")


class FakeConfinement:
    """Stands for Confinement: knows the calls, and what they were refused."""

    made: ClassVar[list["FakeConfinement"]] = []
    full = False

    def __init__(self, root_level):
        self.level, self.calls, self.closed = root_level, {}, False
        FakeConfinement.made.append(self)

    def add(self, cgroup_id):
        if self.full:
            raise BpfError("writing map calls", 7)
        self.calls[cgroup_id] = {}

    def remove(self, cgroup_id):
        self.calls.pop(cgroup_id, None)

    def refused(self, cgroup_id):
        return self.calls.get(cgroup_id, {})

    def close(self):
        self.closed = True


@pytest.fixture
def run(new_registry, monkeypatch):
    """Return a function that runs ``work(registry, confining, fake)`` with a session open."""
    monkeypatch.setattr(confine, "Confinement", FakeConfinement)
    monkeypatch.setattr(confine, "depth_of", lambda path: len(path.strip("/").split("/")))
    monkeypatch.setattr(FakeConfinement, "made", [])

    def run(work):
        async def main():
            registry = new_registry()
            confining = confine.start(registry, SimpleNamespace(path="/a/b"))
            registry.open_session(REF.session, tenant="u0", owner_uid=0)
            await work(registry, confining, FakeConfinement.made[-1])
            await registry.settle()

        asyncio.run(main())

    return run


def begin(registry):
    return registry.begin(registry.sessions[REF.session], owner_uid=0, name="c1", command="x")[0]


def test_a_call_is_confined_from_its_beginning_to_its_end(run):
    async def work(registry, confining, fake):
        assert fake.level == 2
        live = begin(registry)
        assert list(fake.calls) == [live.leaf.id]
        verdict = await registry.end(REF, exit_code=0)
        assert verdict.usage.refusals is None
        assert fake.calls == {}
        confining.close()
        assert fake.closed

    run(work)


def test_what_the_kernel_and_the_daemon_refused_is_one_number_in_the_verdict(run):
    async def work(registry, confining, fake):
        live = begin(registry)
        fake.calls[live.leaf.id] = {Kind.FILE: 3, Kind.TRACE: 1}
        live.refusals = 2
        verdict = await registry.end(REF, exit_code=0)
        assert verdict.usage.refusals == 6
        assert "was refused 6 attempts" in verdict.advice
        told = [event.message for event in registry.bus.events if event.kind == "refused"]
        assert told == ["it tried to get out of its call: file 3, trace 1"]

    run(work)


def test_a_call_too_many_is_told_and_goes_on(run, caplog, monkeypatch):
    monkeypatch.setattr(FakeConfinement, "full", True)

    async def work(registry, confining, fake):
        begin(registry)
        assert (await registry.end(REF, exit_code=0)).outcome == "ok"

    run(work)
    assert "the call u0/s1/c1 is kept in its cgroup by the kernel's permissions alone: writing map" in caplog.text


def test_where_it_cannot_be_had_the_log_says_why_in_one_line(new_registry, monkeypatch, caplog):
    def refuse(level):
        raise Unsupported("loading: no\nlibbpf: and\nmuch more", hint="run as root")

    monkeypatch.setattr(confine, "Confinement", refuse)
    monkeypatch.setattr(confine, "depth_of", lambda path: 1)
    registry = new_registry()
    with caplog.at_level("INFO"):
        assert confine.start(registry, SimpleNamespace(path="/a")) is None
    assert caplog.messages == [
        "calls are kept in their cgroups by the kernel's permissions alone: loading: no (run as root)"
    ]
    assert registry.observers == []
