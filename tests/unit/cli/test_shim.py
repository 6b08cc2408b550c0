# SPDX-License-Identifier: Apache-2.0
"""``agentcg shim``."""

import os
import subprocess

import pytest
from click.testing import CliRunner

from agentcg.cli import shim as module
from agentcg.cli.shim import shim
from agentcg.errors import AgentcgError
from agentcg.launcher import launcher_path
from agentcg.policy.shell import SHELLS


def run(*arguments):
    result = CliRunner().invoke(shim, [str(one) for one in arguments])
    if result.exception is not None:
        raise result.exception
    return result


def test_shells_are_there_twice_and_gone_again(tmp_path):
    folder = tmp_path / "a" / "shells"
    for _ in range(2):
        run(folder)
    assert {"sh", "bash"} <= set(os.listdir(folder))
    assert {os.readlink(link) for link in folder.iterdir()} == {launcher_path()}
    ran = subprocess.run(
        [folder / "sh", "-c", "exit 4"], env={"AGENTCG_SOCKET": "/no/such", "PATH": "/usr/bin:/bin"}, timeout=30
    )
    assert ran.returncode == 4
    (folder / "zz").touch()
    run("--remove", folder)
    assert os.listdir(folder) == ["zz"]


def test_a_shell_that_is_there_is_left(tmp_path):
    (tmp_path / "sh").write_text("mine")
    with pytest.raises(AgentcgError, match=r"/sh is there already"):
        run(tmp_path)
    run("--remove", tmp_path)
    assert (tmp_path / "sh").read_text() == "mine"


def test_only_shells_that_the_launcher_knows_are_made():
    source = os.path.join(os.path.dirname(module.__file__), "../launcher/shell.c")
    with open(source) as file:
        known = file.read().partition("shells[] = {")[2].partition("}")[0]
    assert set(known.replace('"', "").split(", ")) == SHELLS
