# SPDX-License-Identifier: Apache-2.0
"""The prekill hook with systemd's own client in the place of systemd-oomd, whose present versions here have no hook.

Run by `scripts/vm test --systemd -- tests/kernel/test_prekill.py`; without systemd nobody would ask.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcg.kernel.oomd import HOOKS

SERVER = """
import asyncio, os
from agentcg.api import prekill
from agentcg.cgroup.delegate import Root
from agentcg.cgroup.node import Inner

async def relieve(cgroup):
    print("asked", cgroup, flush=True)
    return True

async def main():
    node = Inner.open_root("/sys/fs/cgroup")
    served = prekill.start(Root(node, "/sys/fs/cgroup", "/", frozenset(), ()), relieve)
    print("serving", served.path, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def server() -> "Iterator[tuple[subprocess.Popen[str], str]]":
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word, path = process.stdout.readline().split()
        assert word == "serving"
        yield process, path
        process.kill()


def varlinkctl(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["varlinkctl", *arguments], capture_output=True, text=True, timeout=60, **options)


def test_systemds_client_asks_as_systemd_oomd_does(server: Any) -> None:
    process, path = server
    assert Path(path).parent == Path(HOOKS)
    described = varlinkctl("introspect", f"unix:{path}", "io.systemd.oom.Prekill")
    assert described.returncode == 0, described.stderr
    assert "method Notify(" in described.stdout
    cgroup = json.dumps({"cgroup": "/system.slice/some.service"})
    done = varlinkctl("call", "-j", f"unix:{path}", "io.systemd.oom.Prekill.Notify", cgroup)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout or "{}") == {}
    assert process.stdout.readline() == "asked /system.slice/some.service\n"


def test_the_capability_that_systemd_oomd_has_is_enough_and_no_other_user_gets_in(server: Any) -> None:
    process, path = server
    cgroup = json.dumps({"cgroup": "/user.slice"})
    call = ["varlinkctl", "call", "-j", f"unix:{path}", "io.systemd.oom.Prekill.Notify", cgroup]
    unit = ["systemd-run", "--wait", "--pipe", "--collect", "--quiet", "--property=User=nobody"]
    refused = subprocess.run([*unit, *call], capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr
    like_oomd = ["AmbientCapabilities", "CapabilityBoundingSet"]
    unit += [f"--property={name}=CAP_KILL CAP_DAC_OVERRIDE" for name in like_oomd]
    unit += [
        "--property=ProtectSystem=strict",
        "--property=PrivateTmp=yes",
        "--property=RestrictAddressFamilies=AF_UNIX",
    ]
    done = subprocess.run([*unit, *call], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert process.stdout.readline() == "asked /user.slice\n"
