# SPDX-License-Identifier: Apache-2.0
"""Records a running session: samples through the socket, calls from the events, into a recording file."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
import time
from types import TracebackType
from typing import Any

from agentcg.api import types
from agentcg.api.client import Client, RemoteError
from agentcg.api.types import from_wire
from agentcg.errors import AgentcgError
from agentcg.model import Intent
from agentcg.trace.format import Recorder
from agentcg.trace.model import RecordedCall, Sample

__all__ = ["EventFeed", "SessionRecorder"]

_QUIET_SEC = 0.2
_OPENED_SEC = 10.0


class EventFeed:
    """The daemon's events, from a connection of their own. Made before the session is opened, so that none is missed.

    :param watching: a connection that is used for nothing else
    """

    def __init__(self, watching: Client) -> None:
        self._events: queue.SimpleQueue[types.Event | None] = queue.SimpleQueue()
        watching.status()
        threading.Thread(target=self._watch, args=(watching,), daemon=True).start()
        time.sleep(0.1)  # There is no answer to a Watch before the first event: see wait_opened.

    def _watch(self, watching: Client) -> None:
        with contextlib.suppress(RemoteError, OSError):
            for event in watching.watch():
                self._events.put(event)
        self._events.put(None)

    def wait_opened(self, session: str) -> None:
        """Wait for the event that a session was opened. :raises AgentcgError: if it does not come"""
        deadline = time.monotonic() + _OPENED_SEC
        while (left := deadline - time.monotonic()) > 0:
            event = self.next(left)
            if event is not None and (event.kind, event.subject) == ("session_opened", session):
                return
        raise AgentcgError("the daemon does not tell of events, so calls cannot be recorded", hint="try again")

    def next(self, timeout: float) -> types.Event | None:
        """Return the next event, or None if there is none within ``timeout`` seconds.

        :raises AgentcgError: if there will be no more, or some were missed
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if event is None:
            raise AgentcgError("the daemon has stopped telling of events", hint="the recording is cut: see its log")
        if event.kind == "lost":
            raise AgentcgError(f"calls may be missing from the recording: {event.message}")
        return event


class SessionRecorder:
    """Writes a recording of one session while it runs; a context manager that completes the file.

    :param session: its full name
    :param every_sec: the time between two samples
    :raises AgentcgError: if the file cannot be written, or the daemon hangs up
    """

    def __init__(
        self,
        client: Client,
        feed: EventFeed,
        session: str,
        path: str,
        *,
        name: str | None = None,
        every_sec: float = 0.1,
    ) -> None:
        self._client, self._feed, self._session, self._every_sec = client, feed, session, every_sec
        feed.wait_opened(session)
        self._started = time.time()
        self._last = -1.0
        self._seen: dict[str, types.ToolCallInfo] = {}
        self._sampled: dict[str, Sample] = {}
        self.calls = self.samples = 0
        kernel = os.uname()
        self._recorder = Recorder(
            path,
            name=name or session.rpartition("/")[2],
            started=self._started,
            source=f"agentcg record, {kernel.sysname} {kernel.release} {kernel.machine}, {os.cpu_count()} CPUs",
        )

    def __enter__(self) -> SessionRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._recorder.abandon()
            raise
        if kind is None:
            self._recorder.close()
        else:
            self._recorder.abandon()

    def until_ended(self, agent: subprocess.Popen[Any]) -> None:
        """Record until the agent has ended."""
        due = time.monotonic()
        while agent.poll() is None:
            self._sample()
            due = max(due + self._every_sec, time.monotonic())
            while agent.poll() is None and (left := due - time.monotonic()) > 0:
                self._take(left)

    def _take(self, timeout: float) -> bool:
        """Handle one event, if one comes within ``timeout`` seconds."""
        event = self._feed.next(timeout)
        if event is not None and event.verdict is not None and event.subject.startswith(f"{self._session}/"):
            self._call(event.verdict)
        return event is not None

    def _now(self) -> float:
        # The wall clock may be set back; a recording's time may not.
        return max(time.time() - self._started, self._last + 1e-6)

    def _sample(self) -> None:
        try:
            sessions, calls = self._client.sessions(), self._client.calls(self._session)
        except RemoteError as error:
            raise AgentcgError(f"the session can no longer be seen: {error}") from error
        at = self._last = round(self._now(), 6)
        for session in sessions:
            if session.session == self._session:
                self._write(Sample(at, session.memoryCurrent or 0, session.cpuSec or 0.0))
        for call in calls:
            name = call.call.rpartition("/")[2]
            self._seen[name] = call
            since = call.started - self._started
            if at > since:
                before = self._sampled.get(name)
                used = max(call.cpuSec or 0.0, before.cpu_sec if before else 0.0)
                sample = self._sampled[name] = Sample(at, call.memoryCurrent or 0, used, name)
                self._write(sample)

    def _write(self, sample: Sample) -> None:
        self._recorder.sample(sample)
        self.samples += 1

    def _call(self, verdict: types.Verdict) -> None:
        name = verdict.call.rpartition("/")[2]
        start = max(0.0, round(verdict.started - self._started, 6))
        last, seen = self._sampled.pop(name, None), self._seen.pop(name, None)
        end = max(round(verdict.ended - self._started, 6), start, last.t_sec if last else 0.0)
        if last is None or end > last.t_sec:
            # What the kernel counted is exact: all CPU time, and the peak of a call too short to have been seen.
            memory = last.memory_bytes if last else verdict.usage.memoryPeak or 0
            used = max(verdict.usage.cpuSec or 0.0, last.cpu_sec if last else 0.0)
            self._write(Sample(end, memory, used, name))
        intent = from_wire(Intent, seen.intent) if seen else None
        self._recorder.call(
            RecordedCall(
                id=name,
                tool=verdict.tool,
                command=verdict.command,
                start_sec=start,
                end_sec=end,
                call_class=verdict.callClass,
                exit_code=verdict.exitCode,
                intent=None if intent == Intent() else intent,
            )
        )
        self.calls += 1

    def _finish(self) -> None:
        """Take a last sample, end the calls that the agent left behind, and take down what they came to."""
        self._sample()
        for call in self._client.calls(self._session):
            self._client.kill(call.call, "its agent has ended")
        while self._take(_QUIET_SEC):
            pass
