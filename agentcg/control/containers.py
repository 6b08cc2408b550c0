# SPDX-License-Identifier: Apache-2.0
"""Containers as sessions: attached and detached, watched while they are, and attached again when they restart.

That a container ends or is paused is told by its own cgroup. The engine is asked when one is attached, and followed for
those that start. Where attached containers are is kept on the root, for the daemon that comes after this one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path

from agentcg.cgroup.container import AGENT, enter, leave
from agentcg.cgroup.delegate import cgroup_of, find_mounts
from agentcg.control.live import LiveSession
from agentcg.control.registry import Registry
from agentcg.control.watch import go_on, stand_still
from agentcg.errors import AgentcgError, InvalidInput, Unsupported
from agentcg.model import SessionRef, Verdict
from agentcg.sandbox.docker import Container, Engine, Pattern

__all__ = ["TENANT", "Containers", "places_of"]

log = logging.getLogger(__name__)

TENANT = "docker"
_RECORD = "containers"


def places_of(record: dict[str, object] | None) -> list[tuple[str, str]]:
    """Return where the containers are that were attached, in the file system and in the hierarchy, as a root has it."""
    mount = _mount() if (record or {}).get(_RECORD) else None
    paths = (record or {}).get(_RECORD)
    if mount is None or not isinstance(paths, list):
        return []
    return [(f"{mount}{path}", path) for path in paths if isinstance(path, str) and path.startswith("/")]


def _mount() -> str | None:
    """Return where the whole hierarchy is mounted; None where this mount namespace shows a part of it."""
    mounts = find_mounts(Path("/proc/self/mountinfo").read_text())
    return mounts.unified if mounts.unified_root == "/" else None


class Containers:
    """The containers that are sessions. Belongs to the loop it was made on.

    :param patterns: containers that are attached when they start, and those that run already
    """

    def __init__(self, registry: Registry, engine: Engine, patterns: Sequence[Pattern] = ()) -> None:
        self._registry, self._engine, self._patterns = registry, engine, patterns
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._watches: dict[SessionRef, int | None] = {}
        self._paused: set[SessionRef] = set()
        self._wanted: set[str] = set()
        """Ids of those that are attached again when they restart."""
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.places: dict[str, SessionRef] = {}
        """Which session a container's cgroup is, by its path in the hierarchy."""
        for live in list(registry.sessions.values()):
            if live.session.container:
                self._watch(live)
        self._remember()
        if patterns or self._wanted:
            self._follow()

    def close(self) -> None:
        """Stop following the engine. What is attached stays so, for the next daemon."""
        self._engine.close()
        for handle in self._watches.values():
            self._registry.poll.unwatch(handle)

    async def attach(self, container: str, *, owner_uid: int = 0) -> LiveSession:
        """Make a running container a session.

        :raises InvalidInput: if there is none of that name, it does not run, or is attached already
        :raises AgentcgError: if that cannot be done; the container is as it was
        """
        found = await asyncio.to_thread(self._engine.inspect, container)
        async with self._lock:
            live = self._attach(found, owner_uid)
        self._follow()
        return live

    def _attach(self, found: Container, owner_uid: int) -> LiveSession:
        if not found.pid or found.paused:
            state = "is paused" if found.paused else "does not run"
            raise InvalidInput("container", f"{found.name} {state}", hint="see `docker ps`")
        if self.find(found.id) is not None:
            raise InvalidInput("container", f"{found.name} is attached already", hint="see `agentcg session list`")
        directory, path = _place(found)
        try:
            node = enter(directory, path, self._registry.tree.root.controllers)
        except (OSError, Unsupported) as error:
            what = error.message if isinstance(error, Unsupported) else str(error)
            hint = error.hint if isinstance(error, Unsupported) else "see whether it still runs"
            raise Unsupported(f"the container {found.name} cannot be attached: {what}", hint=hint) from error
        try:
            live = self._registry.open_container(self._name(found), node, container=found.id, owner_uid=owner_uid)
        except BaseException:
            leave(node.top)
            node.close()
            raise
        self._watch(live)
        self._remember()
        return live

    def _name(self, found: Container) -> SessionRef:
        """Return a free name for a session, as much like the container's as a name can be."""
        name = re.sub(r"[^A-Za-z0-9_-]", "-", found.name)[:64]
        if SessionRef(TENANT, name) in self._registry.sessions:
            name = f"{name[:51]}-{found.id[:12]}"
        return SessionRef(TENANT, name)

    def find(self, container: str) -> LiveSession | None:
        """Return the session of a container by its id."""
        sessions = self._registry.sessions.values()
        return next((live for live in sessions if live.session.container == container and not live.closing), None)

    async def detach(self, container: str) -> list[Verdict]:
        """End a container's calls, and leave it as it was found.

        :raises InvalidInput: if it is not attached
        """
        found = await asyncio.to_thread(self._engine.inspect, container)
        async with self._lock:
            live = self.find(found.id)
            if live is None:
                raise InvalidInput("container", f"{found.name} is not attached", hint="see `agentcg session list`")
            self._wanted.discard(found.id)
            return await self._close(live, "its container was detached")

    async def _close(self, live: LiveSession, reason: str) -> list[Verdict]:
        self._registry.poll.unwatch(self._watches.pop(live.session.ref, None))
        self._paused.discard(live.session.ref)
        try:
            return await self._registry.close_session(live.session.ref, reason)
        finally:
            self.places.pop(live.node.path, None)
            self._remember()

    def _remember(self) -> None:
        node = self._registry.tree.root.node
        record = node.read_record() or {}
        if record.get(_RECORD, []) != (paths := sorted(self.places)):
            node.write_record(record | {_RECORD: paths})

    # What happens to them

    def _watch(self, live: LiveSession) -> None:
        self.places[live.node.path] = live.session.ref
        self._wanted.add(live.session.container or "")
        changed = partial(self._changed, live)
        self._watches[live.session.ref] = self._registry.poll.watch_file(live.node.top.fd, "cgroup.events", changed)
        changed()

    def _changed(self, live: LiveSession) -> None:
        if live.closing:
            return
        if not live.node.top.populated:
            self._start(self._stopped(live))
        elif live.node.top.frozen != (live.session.ref in self._paused):
            self._pause(live)

    async def _stopped(self, live: LiveSession) -> None:
        async with self._lock:
            if self._registry.sessions.get(live.session.ref) is live and not live.closing:
                await self._close(live, "its container has stopped")

    def _pause(self, live: LiveSession) -> None:
        """It was paused by its engine, or goes on: the time of its calls stands still meanwhile."""
        ref, calls = live.session.ref, [call for call in live.calls.values() if call.finishing is None]
        if ref in self._paused:
            self._paused.discard(ref)
            for call in calls:
                go_on(self._registry, call)
            self._registry.bus.publish("session_thawed", ref, "by its container's engine")
        else:
            self._paused.add(ref)
            for call in calls:
                stand_still(call, time.monotonic())
            self._registry.bus.publish("session_frozen", ref, "by its container's engine")

    def _follow(self) -> None:
        if self._thread is None:

            def told(container: str) -> None:
                self._loop.call_soon_threadsafe(self._started, container)

            self._thread = threading.Thread(target=self._engine.follow, args=(told,), daemon=True, name="docker")
            self._thread.start()

    def _started(self, container: str) -> None:
        if self._patterns or container in self._wanted:
            self._start(self._attach_started(container))

    async def _attach_started(self, container: str) -> None:
        found = await asyncio.to_thread(self._engine.inspect, container)
        if container not in self._wanted and not any(pattern.matches(found) for pattern in self._patterns):
            return
        async with self._lock:
            live = self.find(container)
            if live is not None and live.node.top.populated:
                return
            if live is not None:  # It has stopped and started, and we hear of the second first.
                await self._close(live, "its container has stopped")
            if found.pid:
                self._attach(found, 0)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, AgentcgError):
            log.warning("%s", error)
        elif error is not None:
            log.error("a container could not be followed", exc_info=error)


def _place(found: Container) -> tuple[str, str]:
    """Return where a container's cgroup is, in the file system and in the hierarchy.

    :raises Unsupported: if it has none of its own
    """
    path, mount = cgroup_of(found.pid), _mount()
    if path is None or mount is None:
        what = "its first process has ended" if path is None else "the whole cgroup v2 hierarchy is not mounted here"
        raise Unsupported(f"the container {found.name} cannot be attached: {what}", hint="run the daemon on the host")
    # What a daemon that was killed while it attached the container has left.
    path = path.removesuffix(f"/{AGENT}")
    if found.id not in path.rpartition("/")[2]:
        raise Unsupported(
            f"the container {found.name} cannot be attached: it has no cgroup of its own, but lives in {path}",
            hint="this takes cgroup v2 and an engine that uses runc",
        )
    return f"{mount}{path}", path
