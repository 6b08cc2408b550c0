# SPDX-License-Identifier: Apache-2.0
"""An agent behind the hooks of Claude Code: the hooks and the calls are real, the runtime and its model are a script.

The runtime itself cannot be had here: what it writes and reads is taken from its published interface.
"""

import json
import os
import re
import subprocess
from typing import Any

import pytest

EAT = "python3 -S -c \"x = bytearray(b'x') * (90 << 20); print('passed')\""


class Runtime:
    """Shows a command to the hooks and runs what comes back, as the runtime does."""

    def __init__(self, daemon: Any, temporary: Any, permission: str) -> None:
        self._environment = dict(os.environ) | {"AGENTCG_SOCKET": daemon.socket, "TMPDIR": str(temporary)}
        self._permission = permission
        self.prompts: list[str] = []
        """What the model reads after each command."""

    def _hook(self, name: str, payload: dict[str, Any], *options: str) -> dict[str, Any]:
        ran = subprocess.run(
            ["agentcg", "hook", name, *options],
            input=json.dumps(payload),
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=60,
            check=True,
        )
        return json.loads(ran.stdout)["hookSpecificOutput"] if ran.stdout else {}

    def bash(self, command: str) -> int:
        payload: dict[str, Any] = {
            "session_id": "s1",
            "hook_event_name": "PreToolUse",
            "tool_name": "Bash",
            "tool_input": {"command": command},
            "tool_use_id": f"toolu_{len(self.prompts)}",
        }
        answer = self._hook("pre-tool-use", payload, "--permission", self._permission)
        ran = subprocess.run(
            ["bash", "-c", answer["updatedInput"]["command"]],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=60,
        )
        event = "PostToolUse" if ran.returncode == 0 else "PostToolUseFailure"
        context = self._hook("post-tool-use", payload | {"hook_event_name": event})
        self.prompts.append(ran.stdout + ran.stderr + context.get("additionalContext", ""))
        return ran.returncode


@pytest.mark.parametrize("permission", ["none", "allow"])
def test_a_command_that_dies_of_its_limit_is_explained_and_what_is_advised_helps(
    daemon: Any, tmp_path: Any, permission: str
) -> None:
    runtime = Runtime(daemon, tmp_path, permission)
    assert runtime.bash(f"AGENT_RESOURCE_HINT=memory:64m {EAT}") != 0
    # What a model does: it reads how much to ask for, and asks.
    advised = re.search(r"memory limit of 64\.0 MiB.* ask for (\d+) MiB", runtime.prompts[0])
    assert advised is not None, runtime.prompts
    assert runtime.bash(f"AGENT_RESOURCE_HINT=memory:{advised[1]}m {EAT}") == 0
    assert runtime.prompts[1] == "passed\n"
    assert not any(tmp_path.glob("agentcg-hook-*/*"))


def test_all_of_a_command_runs_in_its_call(daemon: Any, tmp_path: Any) -> None:
    runtime = Runtime(daemon, tmp_path, "none")
    assert runtime.bash("cat /proc/self/cgroup; sh -c 'cat /proc/self/cgroup'; (cat /proc/self/cgroup &) ; wait") == 0
    places = set(runtime.prompts[0].split())
    assert len(places) == 1
    assert places.pop().endswith("/shared/u0/adhoc/calls/toolu_0")
