# SPDX-License-Identifier: Apache-2.0
"""OpenHands: a terminal tool whose every command is a call.

::

    import agentcg.runtimes.openhands

    agent = Agent(llm=llm, tools=[Tool(name="terminal", params={"memory": "4G"})])

It is registered in the place of the runtime's own ``terminal``, whose bash, prompt, time-outs and text it keeps; see
:mod:`agentcg.runtimes.persistent_shell` for what is added to the bash.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from openhands.sdk.llm import TextContent
from openhands.sdk.tool import ToolExecutor, register_tool
from openhands.tools.terminal import TerminalAction, TerminalExecutor, TerminalObservation, TerminalTool
from openhands.tools.terminal.constants import CMD_OUTPUT_PS1_END
from openhands.tools.terminal.metadata import CmdOutputMetadata
from openhands.tools.terminal.terminal import SubprocessTerminal, TerminalInterface, parse_ctrl_key

from agentcg.api.client import RemoteError
from agentcg.policy.hint import take_hint
from agentcg.runtimes import with_advice
from agentcg.runtimes.persistent_shell import PersistentShell
from agentcg.runtimes.session import RuntimeSession, refusal

if TYPE_CHECKING:
    from openhands.sdk.conversation import LocalConversation
    from openhands.sdk.conversation.state import ConversationState

__all__ = ["AgentcgExecutor", "AgentcgTerminal", "AgentcgTerminalTool"]

PROMPT_SEC = 30.0
"""How long bash may take to load the builtin, and to write a prompt."""
POLL_SEC = 0.01


class AgentcgTerminal(TerminalInterface):
    """A terminal of the runtime's own with its bash. The call of a command begins when the first of it is typed."""

    def __init__(self, terminal: SubprocessTerminal, session: RuntimeSession) -> None:
        super().__init__(terminal.work_dir, terminal.username)
        self._terminal = terminal
        self.calls = PersistentShell(session)
        self.command: str | None = None
        """What is typed next is this; None: it is input of the command that runs."""

    def load(self) -> None:
        """Have bash, which is at its prompt, load the builtin. :raises Unsupported: if it cannot"""
        pid = self._terminal.process.pid
        if self.calls.is_loaded(pid):
            return
        # Prompts from before may still come, so it says itself when the line has run. Its echo does not.
        self._terminal.send_keys(f"{self.calls.loading()}; printf '%s: loaded\\n' agentcg")
        screen = self._read_until(lambda screen: _has_prompt(screen.partition("agentcg: loaded\n")[2]))
        self.calls.loaded(pid, screen)
        self.clear_screen()

    def initialize(self) -> None:
        """Start bash, if it was not started. :raises Unsupported: if it cannot load the builtin"""
        self._terminal.initialize()
        self._initialized = True
        self.load()

    def send_keys(self, text: str, enter: bool = True) -> None:
        """Type. :raises RemoteError: if the call is refused, and then nothing is typed, or the daemon is not reached"""
        command, self.command = self.command, None
        if command is not None:
            self.calls.begin(command)
        elif parse_ctrl_key(text) == "C-c":
            self.calls.release()
        self._terminal.send_keys(text, enter)

    def interrupt(self) -> bool:
        """Interrupt the command that runs."""
        with contextlib.suppress(RemoteError):
            self.calls.release()
        return bool(self._terminal.interrupt())

    def close(self) -> None:
        """End bash, and what it has left running."""
        self._terminal.close()
        self.calls.close()
        self._closed = True

    def read_screen(self) -> str:
        """Return what bash and its commands have written.

        The end of a prompt is waited for. Where it is read later, it would be taken for the end of the next command.
        """
        return self._read_until(lambda screen: not screen.endswith(CMD_OUTPUT_PS1_END))

    def clear_screen(self) -> None:
        """Forget it. Bash is asked for another prompt then, which is waited for, for the same reason."""
        self._terminal.clear_screen()
        self._read_until(_has_prompt)

    def _read_until(self, is_enough: Callable[[str], bool]) -> str:
        give_up = time.monotonic() + PROMPT_SEC
        while not is_enough(screen := str(self._terminal.read_screen())) and time.monotonic() < give_up:
            time.sleep(POLL_SEC)
        return screen

    def is_running(self) -> bool:
        """Whether a command runs."""
        return bool(self._terminal.is_running())


class AgentcgExecutor(ToolExecutor[TerminalAction, TerminalObservation]):
    """Executes commands in one bash, as calls of one session. What is advised is at the end of their output.

    :param session: the session, which is closed with :meth:`close`
    :param options: those of the runtime's own executor
    """

    def __init__(self, session: RuntimeSession, **options: Any) -> None:
        self._session = session
        self._options = options
        self._start()

    def __call__(self, action: TerminalAction, conversation: LocalConversation | None = None) -> TerminalObservation:
        """Run a command, whose head may be a hint, or give input to the one that runs.

        A call that is refused, for a hint that is none, say, is a command that was not run, with status 125.

        :raises RemoteError: if the daemon cannot be reached
        :raises Unsupported: if bash cannot load the builtin
        """
        if action.reset and not action.is_input:
            self._executor.close()
            self._start()
            if not action.command.strip():
                return TerminalObservation.from_text("A new shell was started.", command="[RESET]", exit_code=0)
            action = action.model_copy(update={"reset": False})
        if not self._executor.session.is_running():
            self._terminal.load()
            self._terminal.command = action.command
            action = action.model_copy(update={"command": take_hint(action.command)[1]})
        try:
            observation = self._executor(action, conversation)
        except RemoteError as error:
            if not error.name:
                raise
            given = {"command": action.command, "exit_code": 125, "metadata": CmdOutputMetadata(exit_code=125)}
            return TerminalObservation.from_text(refusal(error), is_error=True, **given)
        except BaseException:
            self._terminal.calls.end()
            raise
        finally:
            self._terminal.command = None
        if self._executor.session.is_running():
            return observation
        status = observation.metadata.exit_code
        advice = self._terminal.calls.end(exit_code=None if status < 0 else status)
        said = TextContent(text=with_advice(observation.text, advice))
        return observation.model_copy(update={"content": [said]})

    def interrupt(self) -> None:
        """Interrupt the command that runs."""
        self._executor.interrupt()

    def close(self) -> None:
        """End all that runs, and close the session."""
        self._executor.close()
        self._session.close()

    def _start(self) -> None:
        self._executor = TerminalExecutor(terminal_type="subprocess", **self._options)
        shell = self._executor.session
        self._terminal = shell.terminal = AgentcgTerminal(shell.terminal, self._session)
        try:
            self._terminal.initialize()
        except BaseException:
            self._executor.close()
            raise


class AgentcgTerminalTool(TerminalTool):
    """The runtime's own terminal tool, with an :class:`AgentcgExecutor`."""

    name: ClassVar[str] = TerminalTool.name

    @classmethod
    def create(
        cls,
        conv_state: ConversationState,
        *,
        session: str | None = None,
        memory: str | None = None,
        protected: bool = False,
        socket: str | None = None,
        **options: Any,
    ) -> Sequence[AgentcgTerminalTool]:
        """Make the tool of a conversation.

        :param session: the session's name; by default one is made up
        :param memory: what all commands may use together, such as 4G; by default what the policy grants
        :param protected: ``memory`` is set aside for it from the start
        :param socket: the daemon's; by default AGENTCG_SOCKET, or the system's
        :param options: those of the runtime's own executor
        :raises RemoteError: if the daemon refuses the session or cannot be reached
        :raises Unsupported: if bash cannot load the builtin
        """
        options |= {
            "working_dir": conv_state.workspace.working_dir,
            "full_output_save_dir": conv_state.env_observation_persistence_dir,
        }
        opened = RuntimeSession(session, memory=memory, protected=protected, socket=socket)
        try:
            return list(super().create(conv_state, executor=AgentcgExecutor(opened, **options)))
        except BaseException:
            opened.close()
            raise


def _has_prompt(screen: str) -> bool:
    return bool(CmdOutputMetadata.matches_ps1_metadata(screen)) and not screen.endswith(CMD_OUTPUT_PS1_END)


register_tool(AgentcgTerminalTool.name, AgentcgTerminalTool)
