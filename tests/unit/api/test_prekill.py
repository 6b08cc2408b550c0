# SPDX-License-Identifier: Apache-2.0
"""The hook of systemd-oomd, asked over its socket as systemd-oomd asks."""

import asyncio
import json
import os
import stat
import time

import pytest

from agentcg.api import prekill
from agentcg.api.prekill import LIMIT_SEC, Prekill

ANSWERED: dict = {}  # A reply without parameters.


@pytest.fixture
def hook(root, tmp_path, monkeypatch):
    """Run a body against a served hook; what it is asked about is in ``asked``."""
    monkeypatch.setattr("agentcg.api.peer.cgroup_of", lambda pid: where[0])
    where = ["/system.slice/systemd-oomd.service"]
    directory = tmp_path / "hooks"

    def run(body, relieve=None):
        asked = []

        async def note(cgroup):
            asked.append(cgroup)
            return await relieve(cgroup) if relieve else False

        async def main():
            served = Prekill(root, note, directory=str(directory))
            try:
                await body(served.path)
            finally:
                served.close()
            assert os.listdir(directory) == []

        asyncio.run(main())
        return asked

    run.where, run.directory = where, directory
    return run


async def ask(path, method="io.systemd.oom.Prekill.Notify", **parameters):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")
    reply = json.loads((await reader.readuntil(b"\0"))[:-1])
    writer.close()
    await writer.wait_closed()
    return reply


def test_it_is_told_what_will_be_killed_and_answers(hook, caplog):
    async def body(path):
        assert await ask(path, cgroup="/fake/shared/t/s/calls/c1") == ANSWERED
        assert await ask(path, cgroup="/user.slice") == ANSWERED
        assert await ask(path, cgroup="/fake-not") == ANSWERED

    assert hook(body) == ["/fake/shared/t/s/calls/c1", "/user.slice", "/fake-not"]
    said = [message.partition("which is ")[2] for message in caplog.messages if "about to kill" in message]
    assert said == ["ours", "not ours", "not ours"]


def test_the_interface_is_systemds(hook):
    async def body(path):
        info = await ask(path, "org.varlink.service.GetInfo")
        assert "io.systemd.oom.Prekill" in info["parameters"]["interfaces"]
        described = await ask(path, "org.varlink.service.GetInterfaceDescription", interface="io.systemd.oom.Prekill")
        assert "method Notify(cgroup: string) -> ()" in described["parameters"]["description"]

    hook(body)


@pytest.mark.parametrize("cgroup", ["", "relative", "/a/../b", "/a\0b", "/" + "a" * 5000])
def test_a_path_that_is_none_is_refused(hook, cgroup):
    async def body(path):
        reply = await ask(path, cgroup=cgroup)
        assert reply["error"] == "dev.agentcg.Invalid"
        assert reply["parameters"]["place"] == "cgroup"

    assert hook(body) == []


def test_a_missing_parameter_is_refused(hook):
    async def body(path):
        assert (await ask(path))["error"] == "dev.agentcg.Invalid"

    assert hook(body) == []


def test_an_agent_that_runs_as_root_is_not_the_hosts_killer(hook):
    async def body(path):
        hook.where[0] = "/fake/shared/tenant/session/agent"
        reply = await ask(path, cgroup="/user.slice")
        assert reply["error"] == "dev.agentcg.Denied"
        assert "tenant/session" in reply["parameters"]["message"]

    assert hook(body) == []


def test_the_answer_does_not_wait_for_work_that_takes_long_and_the_work_is_finished(hook, caplog):
    ended = []

    async def relieve(cgroup):
        await asyncio.sleep(LIMIT_SEC + 0.4)
        ended.append(cgroup)
        return True

    async def body(path):
        began = time.monotonic()
        assert await ask(path, cgroup="/a") == ANSWERED
        assert LIMIT_SEC * 0.9 < time.monotonic() - began < LIMIT_SEC + 0.3
        assert ended == []
        await asyncio.sleep(0.6)
        assert ended == ["/a"]

    hook(body, relieve)
    assert "takes longer than 0.5 s" in caplog.text


def test_a_fault_of_ours_goes_to_the_log_and_systemd_oomd_goes_on(hook, caplog):
    async def relieve(cgroup):
        raise OSError("no such luck")

    async def body(path):
        assert await ask(path, cgroup="/a") == ANSWERED

    hook(body, relieve)
    assert "nothing could be done about '/a'" in caplog.text
    assert "no such luck" in caplog.text


def test_the_socket_is_for_root_and_takes_the_place_of_a_stale_one(hook, root):
    hook.directory.mkdir()
    (hook.directory / f"dev.agentcg.{root.node.id}").write_text("left behind")

    async def body(path):
        mode = os.stat(path).st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert await ask(path, cgroup="/a") == ANSWERED

    assert hook(body) == ["/a"]


def test_it_is_served_only_where_systemd_runs_and_its_absence_is_no_fault(root, tmp_path, monkeypatch, caplog):
    async def nothing(cgroup):
        return False

    async def main():
        monkeypatch.setattr(prekill, "systemd_runs", lambda: False)
        assert prekill.start(root, nothing, directory=str(tmp_path / "hooks")) is None
        assert not (tmp_path / "hooks").exists()
        monkeypatch.setattr(prekill, "systemd_runs", lambda: True)
        (tmp_path / "file").write_text("")
        assert prekill.start(root, nothing, directory=str(tmp_path / "file")) is None
        assert "systemd-oomd cannot tell what it kills" in caplog.text
        served = prekill.start(root, nothing, directory=str(tmp_path / "hooks"))
        assert os.listdir(tmp_path / "hooks") == [f"dev.agentcg.{root.node.id}"]
        served.close()

    asyncio.run(main())
