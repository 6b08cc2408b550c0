# SPDX-License-Identifier: Apache-2.0
"""Inspect (inspect_ai): a sandbox whose every command is a call.

In a task, or as ``--sandbox agentcg`` on the command line::

    Task(..., sandbox="agentcg")
    Task(..., sandbox=SandboxEnvironmentSpec("agentcg", AgentcgConfig(memory="4G", protected=True)))

Like the runtime's own sandbox ``local`` it runs commands on this host, as this user, in a directory of the sample's
own: it bounds what they use, and hides nothing from them. Each sample is a session, and each command a call of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import re
import secrets
import tempfile
import tomllib
from asyncio.subprocess import DEVNULL, PIPE
from typing import Any, Literal, overload

import anyio
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from inspect_ai.util import concurrency as slot
from inspect_ai.util._subprocess import max_subprocesses_context_var
from pydantic import BaseModel, field_validator

from agentcg.api.aclient import AsyncCall, AsyncClient, aconnect
from agentcg.api.client import RemoteError
from agentcg.api.interfaces import Invalid
from agentcg.errors import InvalidInput
from agentcg.policy.hint import take_shell_hint
from agentcg.runtimes import RECONNECT_SEC, STILL_SEC, with_advice
from agentcg.sandbox.agent import exit_status
from agentcg.units import format_duration, parse_size

__all__ = ["AgentcgConfig", "AgentcgSandboxEnvironment"]

log = logging.getLogger(__name__)

_PREFIX = "inspect-"  # Of its sessions' names.


class AgentcgConfig(BaseModel, frozen=True, extra="forbid"):
    """What each sample's session gets. The same keys make up a configuration file, in TOML."""

    memory: str | None = None
    """What all commands of a sample may use together, such as 4G; by default what the policy grants."""
    protected: bool = False
    """``memory`` is set aside for it from the start."""
    socket: str | None = None
    """The daemon's; by default AGENTCG_SOCKET, or the system's."""

    @field_validator("memory")
    @classmethod
    def _check_memory(cls, memory: str | None) -> str | None:
        if memory is not None:
            parse_size("memory", memory)
        return memory


class _TimedOut(TimeoutError):
    """A command took too long. The runtime shows the model what it had written until then."""

    def __init__(self, duration_sec: float | None, truncated_output: str) -> None:
        super().__init__(f"the command was stopped after {format_duration(duration_sec)}")
        self.truncated_output = truncated_output


@sandboxenv(name="agentcg")
class AgentcgSandboxEnvironment(SandboxEnvironment):
    """A directory, and the session whose calls are what is executed there."""

    def __init__(self, config: AgentcgConfig, client: AsyncClient, session: str) -> None:
        super().__init__()
        self._config, self._client = config, client
        self._directory = tempfile.TemporaryDirectory(prefix="agentcg-inspect-", ignore_cleanup_errors=True)
        self.session = session
        """The full name of its session."""

    @classmethod
    async def task_init(cls, task_name: str, config: BaseModel | str | None) -> None:
        """Look whether the daemon answers, before the first sample. :raises RemoteError: if it does not"""
        (await aconnect(_read_config(config).socket)).close()

    @classmethod
    async def sample_init(
        cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Open a session. :raises RemoteError: if the daemon refuses it or cannot be reached"""
        given = _read_config(config)
        budget: dict[str, Any] = {} if given.memory is None else {"memory_max": parse_size("memory", given.memory)}
        name = f"{_PREFIX}{re.sub('[^A-Za-z0-9_-]', '-', task_name)[:40]}-{secrets.token_hex(4)}"
        client = await aconnect(given.socket)
        try:
            session = await client.session(name, protected=given.protected, **budget)
        except BaseException:
            client.close()
            raise
        return {"default": cls(given, client, session.name)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: BaseModel | str | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Close the sample's session, which ends what runs in it, and remove its directory."""
        for environment in environments.values():
            await environment.as_type(cls).close()

    @classmethod
    async def cli_cleanup(cls, id: str | None) -> None:  # noqa: A002
        """Close the session ``id``, or all that samples have open, those of running evaluations too."""
        async with await aconnect() as client:
            for session in await client.sessions():
                if session.session == id or (id is None and session.session.partition("/")[2].startswith(_PREFIX)):
                    await client.close_session(session.session)

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """Return the configuration that a log holds."""
        return AgentcgConfig(**config)

    async def close(self) -> None:
        """Close the session, and remove the directory."""
        try:
            # Of a daemon that was started since, our own connection was not the lease.
            async with await aconnect(self._config.socket) as client:
                await client.close_session(self.session)
        except RemoteError as error:
            log.warning("session %s was not closed: %s", self.session, error)
        finally:
            self._client.close()
            self._directory.cleanup()

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,  # noqa: A002
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command as a call. A hint may stand at the head of what a shell runs, or in the environment.

        What is advised is added to standard error. A request that is refused, for a hint that is none, say, is the
        result of a command that was not run (status 125). Time that the call stands still does not count, and so a
        command that took too long is not tried again, whatever ``timeout_retry`` says.

        :raises TimeoutError: if it was ended for that, with all that it had started
        :raises OutputLimitExceededError: when it is over, if it wrote more than the runtime's limit
        :raises PermissionError: if it may not be executed
        :raises SandboxUserUnsupportedError: if ``user`` is not the one that we are
        :raises SandboxUnavailableError: if the daemon cannot be reached for :data:`RECONNECT_SEC`
        """
        if user is not None and user not in _own_names():
            raise SandboxUserUnsupportedError(f"agentcg runs commands as user {os.geteuid()}, and cannot as {user}")
        environment = os.environ | (env or {})
        hint, command = take_shell_hint(cmd)
        given: dict[str, Any] = {} if timeout is None else {"duration_max_sec": float(timeout)}
        given["hint"] = hint or environment.get("AGENT_RESOURCE_HINT")
        options = {"cwd": os.path.join(self._directory.name, cwd or ""), "env": environment}
        data = input.encode() if isinstance(input, str) else input or b""
        # As many as subprocesses of the runtime's own.
        limit = slot("subprocesses", max_subprocesses_context_var.get()) if concurrency else contextlib.nullcontext()
        try:
            # On a connection of its own, which stands for the call.
            async with limit, await self._connect() as client:
                call = await client.call(command, session=self.session, **given)
                async with call:
                    return await _run(call, data, timeout, **options)
        except RemoteError as error:
            if error.name == Invalid.name:
                return ExecResult(False, 125, "", f"agentcg: {error}\n")
            raise SandboxUnavailableError(str(error)) from error

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a file, and make the directories above it. It is we who write: no call."""
        path = anyio.Path(self._directory.name, file)
        await path.parent.mkdir(parents=True, exist_ok=True)
        await path.write_bytes(contents.encode() if isinstance(contents, str) else contents)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """Read a file. :raises OutputLimitExceededError: if it is larger than the runtime's limit"""
        path = anyio.Path(self._directory.name, file)
        if (await path.stat()).st_size > SandboxEnvironmentLimits.MAX_READ_FILE_SIZE:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        contents: bytes = await path.read_bytes()
        return contents.decode() if text else contents

    async def _connect(self) -> AsyncClient:
        give_up = anyio.current_time() + RECONNECT_SEC
        while True:
            try:
                return await aconnect(self._config.socket)
            except RemoteError:
                if anyio.current_time() > give_up:
                    raise
                await anyio.sleep(0.2)


async def _run(call: AsyncCall, data: bytes, timeout: int | None, **options: Any) -> ExecResult[str]:
    with anyio.CancelScope(shield=True):  # What was started is to be ended below.
        try:
            process = await call.start(
                stdin=PIPE if data else DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True, **options
            )
        except OSError as error:
            is_there = not isinstance(error, FileNotFoundError)
            await call.end(exit_code=126 if is_there else 127)
            if is_there:
                raise
            return ExecResult(False, 127, "", f"{error}\n")
    streams = _write(process.stdin, data), _read_tail(process.stdout), _read_tail(process.stderr)
    over = asyncio.gather(process.wait(), *streams)
    try:
        # When we are cancelled it goes on, until the end of the call has closed its pipes.
        finished, _ = await asyncio.wait([over], timeout=None if timeout is None else timeout + STILL_SEC)
    finally:
        with anyio.CancelScope(shield=True):
            verdict = await (call.end() if over.done() else call.end(signal=9))
            status, _, (stdout, cut), (stderr, cut_too) = await over
    stderr = with_advice(stderr, verdict.advice)
    if verdict.outcome == "timed_out" or not finished:
        raise _TimedOut(verdict.limits.durationMaxSec, stderr + stdout)
    if cut or cut_too:
        raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, stderr + stdout)
    return ExecResult(status == 0, exit_status(status), stdout, stderr)


async def _write(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    if stream is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # It need not read all.
            stream.write(data)
            await stream.drain()
        stream.close()


async def _read_tail(stream: asyncio.StreamReader | None) -> tuple[str, bool]:
    """Return the end of what is written, as much as the runtime allows, and whether there was more."""
    limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
    tail, cut = bytearray(), False
    while stream is not None and (data := await stream.read(1 << 16)):
        tail += data
        if len(tail) > limit:
            cut = True
            del tail[:-limit]
    return tail.decode(errors="replace"), cut


def _read_config(config: BaseModel | str | None) -> AgentcgConfig:
    """:raises InvalidInput: if it names a file that holds none"""
    if not isinstance(config, str):
        return AgentcgConfig() if config is None else AgentcgConfig.model_validate(config)
    try:
        with open(config, "rb") as file:
            return AgentcgConfig.model_validate(tomllib.load(file))
    except (OSError, ValueError) as error:
        raise InvalidInput(config, str(error), hint='write TOML, such as memory = "4G" and protected = true') from error


def _own_names() -> list[str]:
    """Return the number of the user that we are, and the names."""
    uid = os.geteuid()
    return [str(uid), *(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == uid)]
