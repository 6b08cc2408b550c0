# SPDX-License-Identifier: Apache-2.0
"""mini-swe-agent: an environment whose every command is a call.

In the agent's configuration::

    environment:
      environment_class: agentcg.runtimes.mini_swe_agent.AgentcgEnvironment
      memory: 4G

It is the runtime's own local environment (mini-swe-agent 2) in all but where the command runs: the same shell, output
and time-out. A time-out ends all that the command has started, not its process group alone.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

from minisweagent.environments.local import LocalEnvironment, LocalEnvironmentConfig

from agentcg.api.client import Call, RemoteError
from agentcg.policy.hint import take_hint
from agentcg.runtimes import STILL_SEC, with_advice
from agentcg.runtimes.session import RuntimeSession, refusal

__all__ = ["AgentcgEnvironment", "AgentcgEnvironmentConfig"]


class AgentcgEnvironmentConfig(LocalEnvironmentConfig):
    """The local environment's settings, and ours."""

    session: str | None = None
    """The session's name; by default one is made up."""
    memory: str | None = None
    """What all commands may use together, such as 4G; by default what the policy grants."""
    protected: bool = False
    """``memory`` is set aside for it from the start."""
    socket: str | None = None
    """The daemon's; by default AGENTCG_SOCKET, or the system's."""


class AgentcgEnvironment(LocalEnvironment):
    """Runs commands as calls of one session, which is closed with :meth:`close` or with this process.

    :raises RemoteError: if the daemon refuses the session or cannot be reached
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(config_class=AgentcgEnvironmentConfig, **settings)
        self._session = RuntimeSession(
            self.config.session,
            memory=self.config.memory,
            protected=self.config.protected,
            socket=self.config.socket,
        )
        self.session = self._session.name
        """The full name of its session."""

    def close(self) -> None:
        """Close the session. Safe to call twice."""
        self._session.close()

    def execute(self, action: dict[str, Any], cwd: str = "", *, timeout: int | None = None) -> dict[str, Any]:
        """Run ``action["command"]``; a hint may stand at its head. What is advised is added to its output.

        The verdict is in ``extra`` of the result. A request that is refused, for a hint that is none, say, is the
        output of a command that was not run (status 125). Time that the call stands still does not count.

        :raises RemoteError: if the daemon cannot be reached for 10 s
        """
        hint, command = take_hint(action.get("command", ""))
        timeout = timeout or self.config.timeout
        # On a connection of its own, which stands for the call.
        with self._session.connect() as client:
            try:
                given: dict[str, Any] = {"hint": hint, "duration_max_sec": float(timeout)}
                call = client.call(["sh", "-c", command], session=self.session, tool="bash", **given)
            except RemoteError as error:
                return {"output": refusal(error), "returncode": 125, "exception_info": ""}
            output = self._run(call, cwd or self.config.cwd or os.getcwd(), timeout)
        self._check_finished(output)
        return output

    def _run(self, call: Call, cwd: str, timeout: int) -> dict[str, Any]:
        process = call.popen(
            cwd=cwd,
            env=os.environ | self.config.env,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            text, _ = process.communicate(timeout=timeout + STILL_SEC)
            verdict = call.end()
        except subprocess.TimeoutExpired:  # The daemon should have ended it long ago.
            verdict = call.end(signal=9)
            text, _ = process.communicate()
        output = {"output": with_advice(text, verdict.advice), "returncode": process.returncode, "exception_info": ""}
        if verdict.outcome == "timed_out":
            late = subprocess.TimeoutExpired(call.command[-1], timeout)
            output |= {"returncode": -1, "exception_info": f"An error occurred while executing the command: {late}"}
        seen = {"call": call.name, "outcome": verdict.outcome, "memory_peak": verdict.usage.memoryPeak}
        return output | {"extra": {"agentcg": seen}}
