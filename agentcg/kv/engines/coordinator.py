# SPDX-License-Identifier: Apache-2.0
"""What an engine hears from the daemon, and tells it (dev.agentcg.Kv). Two threads do both, and nobody waits for them.

Without a daemon, or when it goes away, they try again, less and less often. What was known of calls is forgotten then:
nobody would say that they have ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from agentcg.api.client import Client
from agentcg.api.types import KvEvent, KvQueue, KvSession
from agentcg.errors import AgentcgError
from agentcg.kv.engines.keeper import Keeper
from agentcg.kv.engines.signals import call_event, is_full_name, reports_of

__all__ = ["Coordinator", "describe", "hear"]

log = logging.getLogger(__name__)

REPORT_SEC = 1.0
"""How often it is said what has changed, at most."""
SILENT_SEC = 5.0
"""And the queue at least; after ten seconds of silence it is taken to be empty."""
PINNED_SEC = 10.0
"""For how long a pin is said to last; it is said again before."""
_AGAIN_SEC, _AGAIN_MAX_SEC = 1.0, 30.0
_HEARD_MAX = 4096  # An engine that serves nobody does not look. Then all is forgotten rather than some.


class Coordinator:
    """An engine's connections to the daemon.

    :param path: the daemon's socket; AGENTCG_SOCKET or the system's if left out
    """

    def __init__(self, engine: str, *, total_blocks: int, block_bytes: int, path: str | None = None) -> None:
        self.queue = KvQueue(0, total_blocks)
        """Who waits at the engine. Whoever serves sets another one; it is read once a second."""
        self._engine, self._blocks, self._block_bytes, self._path = engine, total_blocks, block_bytes, path
        self._heard: deque[tuple[float, KvEvent | None]] = deque()
        self._lock = threading.Lock()  # Held for as long as it takes to change a dictionary.
        self._unsaid: dict[str, KvSession] = {}
        self._said: dict[str, KvSession] = {}
        self._spoken_to = False
        self._clients: set[Client] = set()
        self._stopped = threading.Event()
        self._complained: dict[Callable[[Client], None], str] = {}

    def start(self) -> None:
        """Begin to speak and to listen."""
        for work in (self._listen, self._report):
            threading.Thread(target=self._keep, args=(work,), name=f"agentcg{work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Hang up."""
        self._stopped.set()
        for client in list(self._clients):
            client.interrupt()

    # From the engine's thread

    def heard(self) -> Iterable[tuple[float, KvEvent | None]]:
        """Return what was heard since the last time, and when, on the monotonic clock: who serves nobody does not look.
        None: what was heard of calls before is to be forgotten."""
        if not (heard := self._heard):
            return ()
        return [heard.popleft() for _ in range(len(heard))]

    def say(self, session: KvSession) -> None:
        """Have it told how a session is now."""
        with self._lock:
            before = self._unsaid.pop(session.session, None)
            if session.hit is None and before is not None:
                session.hit = before.hit
            # While nobody listens, only what is there has to be known.
            if self._spoken_to or session.bytes or session.turns:
                self._unsaid[session.session] = session

    # In threads of their own

    def _keep(self, work: Callable[[Client], None]) -> None:
        wait = _AGAIN_SEC
        while not self._stopped.is_set():
            try:
                with Client(self._path) as client:
                    self._clients.add(client)
                    try:
                        self._complained.pop(work, None)
                        work(client)
                        wait = _AGAIN_SEC
                    finally:
                        self._clients.discard(client)
            except (AgentcgError, OSError) as error:
                if self._complained.get(work) != str(error) and not self._stopped.is_set():
                    self._complained[work] = str(error)
                    log.info("agentcg works without the daemon: %s", error)
            self._stopped.wait(wait)
            wait = min(2 * wait, _AGAIN_MAX_SEC)

    def _listen(self, client: Client) -> None:
        try:
            for event in client.kv_listen():
                if event.kind == "lost":
                    return
                if len(self._heard) >= _HEARD_MAX:
                    self._heard = deque([(time.monotonic(), None)])
                self._heard.append((time.monotonic(), event))
        finally:
            self._heard.append((time.monotonic(), None))

    def _report(self, client: Client) -> None:
        client.kv_hello(self._engine, total_blocks=self._blocks, block_bytes=self._block_bytes)
        with self._lock:
            self._spoken_to = True
        try:
            self._speak(client)
        finally:
            with self._lock:  # Another one has to be told all of it.
                self._spoken_to = False
                now = self._said | self._unsaid
                self._unsaid = {name: session for name, session in now.items() if session.bytes or session.turns}
                self._said.clear()

    def _speak(self, client: Client) -> None:
        queue, silent_sec = None, 0.0
        while not self._stopped.is_set():
            with self._lock:
                changes, self._unsaid = self._unsaid, {}
                for name, session in changes.items():
                    self._said[name] = replace(session, hit=None)
                    if not session.bytes and not session.turns:
                        del self._said[name]
            if changes or self.queue != queue or silent_sec >= SILENT_SEC:
                queue, silent_sec = self.queue, 0.0
                for part in reports_of(list(changes.values())):
                    client.kv_report(part, queue)
            self._stopped.wait(REPORT_SEC)
            silent_sec += REPORT_SEC


def hear(keeper: Keeper[Any], event: KvEvent | None, at: float) -> None:
    """Tell a keeper what was heard, and when that was."""
    if event is None:
        keeper.retention.forget_calls()
    elif event.session is None:
        return
    elif event.kind == "closed":
        keeper.close(event.session)
    elif (told := call_event(event)) is not None:
        keeper.retention.call(event.session, told, at)


def describe(keeper: Keeper[Any], session: str, block_bytes: int) -> KvSession | None:
    """Return how a session is now, or None if its name is none of the daemon's."""
    if not is_full_name(session):
        return None
    known, blocks = keeper.retention.state.sessions.get(session), len(keeper.pins.get(session, ()))
    turns = len(known.waiting) + len(known.running) if known is not None else 0
    return KvSession(
        session,
        tokens=blocks * keeper.block_tokens,
        bytes=blocks * block_bytes,
        turns=turns or None,
        pinnedSec=PINNED_SEC if blocks else None,
        hit=keeper.found.pop(session, None),
    )
