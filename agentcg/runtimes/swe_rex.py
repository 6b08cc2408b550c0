# SPDX-License-Identifier: Apache-2.0
"""SWE-ReX, the execution backend of SWE-agent: a local deployment whose every command is a call.

::

    deployment = AgentcgDeployment(memory="4G")
    environment = SWEEnv(deployment=deployment, repo=None, post_startup_commands=[])

SWE-agent's configuration names deployments of SWE-ReX alone. For it this module serves such a runtime, in the place of
``swerex-remote``, to be reached as a deployment of the type ``remote``::

    python -m agentcg.runtimes.swe_rex --memory 4G --host 127.0.0.1 --port 8880 --auth-token TOKEN

The runtime's own session keeps its bash, its prompt and its time-outs; see :mod:`agentcg.runtimes.persistent_shell` for
what is added to it.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

import click
from swerex.deployment.local import LocalDeployment
from swerex.exceptions import CommandTimeoutError, NoExitCodeError, NonZeroExitCodeError, SessionExistsError
from swerex.runtime.abstract import (
    BashAction,
    BashInterruptAction,
    BashObservation,
    CloseBashSessionResponse,
    CloseResponse,
    Command,
    CommandResponse,
    CreateBashSessionRequest,
    CreateBashSessionResponse,
)
from swerex.runtime.local import BashSession, LocalRuntime

from agentcg.api.client import RemoteError
from agentcg.launcher import launcher_path
from agentcg.policy.hint import take_hint
from agentcg.runtimes import with_advice
from agentcg.runtimes.persistent_shell import PersistentShell
from agentcg.runtimes.session import RuntimeSession, refusal

__all__ = ["AgentcgDeployment", "AgentcgRuntime", "AgentcgSession", "main"]

LOADING_SEC = 30.0


class AgentcgSession(BashSession):
    """A bash whose commands are calls. What is advised is at the end of their output."""

    def __init__(self, request: CreateBashSessionRequest, session: RuntimeSession, *, logger: logging.Logger) -> None:
        super().__init__(request, logger=logger)
        self._calls = PersistentShell(session)

    async def start(self) -> CreateBashSessionResponse:
        """Start bash. :raises Unsupported: if it cannot load the builtin"""
        response = await super().start()
        await self._load()
        return response

    async def run(self, action: BashAction | BashInterruptAction) -> BashObservation:
        """Run a command, whose head may be a hint. What is given to one that goes on is its input, and no call.

        A call that is refused, for a hint that is none, say, is a command that was not run, with status 125.

        :raises RemoteError: if the daemon cannot be reached
        """
        if isinstance(action, BashInterruptAction):
            return await super().run(action)
        if not self._calls.running:
            await self._load()
            try:
                action = action.model_copy(update={"command": self._calls.begin(action.command)})
            except RemoteError as error:
                if not error.name:
                    raise
                return self._checked(action, BashObservation(output=refusal(error), exit_code=125))
        # Whether the status is one to raise for is seen below, when it has been told.
        check = "silent" if action.check == "raise" else action.check
        try:
            observation = await super().run(action.model_copy(update={"check": check}))
        except CommandTimeoutError:
            raise  # It goes on.
        except BaseException:
            self._calls.end()
            raise
        if observation.expect_string not in action.expect:
            advice = self._calls.end(exit_code=observation.exit_code)
            observation.output = with_advice(observation.output, advice)
        return self._checked(action, observation)

    def _checked(self, action: BashAction, observation: BashObservation) -> BashObservation:
        if action.check == "raise" and not action.is_interactive_command and not action.is_interactive_quit:
            if observation.exit_code is None:
                raise NoExitCodeError(f"{action.command!r} ended, but its exit code could not be read")
            if observation.exit_code:
                raise _failure(action, observation.exit_code, observation.output)
        return observation

    async def interrupt(self, action: BashInterruptAction) -> BashObservation:
        """Interrupt the command that runs."""
        self._calls.release()
        observation = await super().interrupt(action)
        if observation.expect_string not in action.expect:
            observation.output = with_advice(observation.output, self._calls.end(signal=signal.SIGINT))
        return observation

    async def close(self) -> CloseBashSessionResponse:
        """End bash and what it has left in the background."""
        response = await super().close()
        self._calls.close()
        return response

    async def _load(self) -> None:
        if not self._calls.is_loaded(self.shell.pid):
            loading = BashAction(command=self._calls.loading(), check="ignore", timeout=LOADING_SEC)
            self._calls.loaded(self.shell.pid, (await super().run(loading)).output)


class AgentcgRuntime(LocalRuntime):
    """Runs commands as calls of one session, which is open from the first command to :meth:`close`.

    :param session: the session's name; by default one is made up
    :param memory: what all commands may use together, such as 4G; by default what the policy grants
    :param protected: ``memory`` is set aside for it from the start
    :param socket: the daemon's; by default AGENTCG_SOCKET, or the system's
    """

    def __init__(
        self,
        *,
        session: str | None = None,
        memory: str | None = None,
        protected: bool = False,
        socket: str | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(logger=logger)
        self._settings: dict[str, Any] = {"memory": memory, "protected": protected, "socket": socket}
        self._name = session
        self._opened: RuntimeSession | None = None

    @property
    def _session(self) -> RuntimeSession:
        if self._opened is None:
            self._opened = RuntimeSession(self._name, **self._settings)
        return self._opened

    async def create_session(self, request: CreateBashSessionRequest) -> CreateBashSessionResponse:
        """Start a bash whose commands are calls.

        :raises RemoteError: if the daemon refuses the session or cannot be reached
        """
        if request.session in self.sessions:
            raise SessionExistsError(f"there is a session {request.session!r} already")
        made = AgentcgSession(request, self._session, logger=self.logger)
        self.sessions[request.session] = made
        return await made.start()

    async def execute(self, command: Command) -> CommandResponse:
        """Run a command outside any bash, as a call of its own. What is advised is at the end of its standard error."""
        words = [command.command] if isinstance(command.command, str) else list(command.command)
        options = ["--socket", self._session.socket, "--session", self._session.name, "--tool", "execute"]
        if command.shell:
            hint, words[0] = take_hint(words[0])
            words = ["/bin/sh", "-c", *words]
            options += ["--hint", hint] if hint else []
        managed = [launcher_path(), *options, "--without-daemon", "fail", "--", *words]
        changes = {"command": managed, "shell": False, "check": False}
        response = await super().execute(command.model_copy(update=changes))
        if command.check and response.exit_code:
            raise _failure(command, response.exit_code, response.stdout + response.stderr)
        return response

    async def close(self) -> CloseResponse:
        """End all that runs, and close the session."""
        response = await super().close()
        self.sessions.clear()
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        return response


class AgentcgDeployment(LocalDeployment):
    """Deploys an :class:`AgentcgRuntime`; ``settings`` are those of that."""

    def __init__(self, *, logger: logging.Logger | None = None, **settings: Any) -> None:
        super().__init__(logger=logger)
        self._settings = settings

    async def start(self) -> None:
        """Start the runtime."""
        self._runtime = AgentcgRuntime(logger=self.logger, **self._settings)


def _failure(of: BashAction | Command, exit_code: int, output: str) -> NonZeroExitCodeError:
    what = f"{of.error_msg}: " if of.error_msg else ""
    return NonZeroExitCodeError(f"{what}{of.command!r} failed with exit code {exit_code}. Its output:\n{output}")


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--session", help="The session's name.")
@click.option("--memory", metavar="SIZE", help="What all commands may use together.")
@click.option("--protected", is_flag=True, help="Reserve its --memory from the start.")
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(options: tuple[str, ...], **settings: Any) -> None:
    """Serve a runtime whose commands are calls. OPTIONS are those of swerex-remote."""
    from swerex import server

    server.runtime = AgentcgRuntime(**settings)
    sys.argv[1:] = options
    server.main()


if __name__ == "__main__":
    main()
