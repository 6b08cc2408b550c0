# SPDX-License-Identifier: Apache-2.0
"""The Docker engine: which containers there are, and when one starts. DOCKER_HOST says where it is, as for ``docker``.

Everything here waits for the engine: call it from a thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from agentcg.errors import AgentcgError, InvalidInput, Unsupported

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["Container", "Engine", "Pattern", "engine_errors"]

log = logging.getLogger(__name__)

TIMEOUT_SEC = 120
RETRY_SEC = (1.0, 30.0)
"""How long an engine that went away is left alone, at first and at most."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine sees it."""

    id: str
    name: str
    pid: int
    """Of its first process, as the host counts; 0 if it does not run."""
    paused: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which containers are meant: by a pattern of the shell for the name, or by a label.

    >>> Pattern.parse("agent-*").name
    'agent-*'
    >>> Pattern.parse("label=agentcg=yes").label
    ('agentcg', 'yes')
    """

    name: str | None = None
    label: tuple[str, str | None] | None = None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``NAME``, ``label=KEY`` or ``label=KEY=VALUE``. :raises InvalidInput: if it is empty"""
        kind, equals, rest = text.partition("=")
        if kind == "label" and equals:
            key, equals, value = rest.partition("=")
            if key:
                return cls(label=(key, value if equals else None))
        elif text:
            return cls(name=text)
        raise InvalidInput(
            "--containers", f"{text!r} matches nothing", hint="write a name, agent-*, or label=KEY=VALUE"
        )

    def matches(self, container: Container) -> bool:
        """Whether a container is meant."""
        if self.label is None:
            return self.name is not None and fnmatchcase(container.name, self.name)
        key, value = self.label
        return key in container.labels and value in (None, container.labels[key])


@contextlib.contextmanager
def engine_errors(container: str = "") -> Iterator[None]:
    """Say what the engine's errors mean.

    :raises InvalidInput: if there is no such container
    :raises Unsupported: if the engine does not answer
    :raises AgentcgError: if it refuses
    """
    from docker.errors import APIError, DockerException, NotFound  # A third of a second: only where there is an engine.

    try:
        yield
    except NotFound as error:
        raise InvalidInput("container", f"there is no container {container!r}", hint="see `docker ps`") from error
    except APIError as error:
        raise AgentcgError(f"the Docker engine refused: {error.explanation or error}") from error
    except (DockerException, OSError) as error:
        raise Unsupported(
            f"the Docker engine does not answer: {error}", hint="is it running? DOCKER_HOST says where it listens"
        ) from error


class Engine:
    """A connection to the engine, made when it is first needed."""

    def __init__(self) -> None:
        self._client: DockerClient | None = None
        self._making = threading.Lock()
        self._stream: Any = None
        self._closed = threading.Event()

    def client(self) -> DockerClient:
        """Return the client. :raises DockerException: if the engine does not answer"""
        with self._making:
            if self._client is None:
                import docker

                self._client = docker.from_env(timeout=TIMEOUT_SEC)
            return self._client

    def inspect(self, container: str) -> Container:
        """Return a container by its name or id.

        :raises AgentcgError: see :func:`engine_errors`
        """
        with engine_errors(container):
            found = self.client().api.inspect_container(container)
        state = found["State"]
        return Container(
            found["Id"],
            found["Name"].lstrip("/"),
            state["Pid"] if state["Running"] else 0,
            state["Paused"],
            found["Config"].get("Labels") or {},
        )

    def follow(self, started: Callable[[str], None]) -> None:
        """Call ``started`` with the id of every container that runs and of each that is started, until :meth:`close`.

        An engine that goes away is waited for. Blocks.
        """
        pause = RETRY_SEC[0]
        while not self._closed.is_set():
            try:
                with engine_errors():
                    api = self.client().api
                    # Listen first, look then: what starts in between is told twice rather than never.
                    self._stream = api.events(decode=True, filters={"type": "container", "event": "start"})
                    for running in api.containers():
                        started(running["Id"])
                    pause = RETRY_SEC[0]
                    for event in self._stream:
                        started(event["Actor"]["ID"])
            except AgentcgError as error:
                if not self._closed.is_set():
                    log.warning("%s; containers that start are not seen until it does", error.message)
            self._closed.wait(pause)
            pause = min(2 * pause, RETRY_SEC[1])

    def close(self) -> None:
        """End :meth:`follow`."""
        self._closed.set()
        if self._stream is not None:
            with contextlib.suppress(OSError, AgentcgError), engine_errors():
                self._stream.close()
