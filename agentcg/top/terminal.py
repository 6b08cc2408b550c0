# SPDX-License-Identifier: Apache-2.0
"""The loop: look, draw, wait for a key or for the next look."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console, Group
from rich.live import Live

from agentcg.api.client import Client, RemoteError, connect
from agentcg.api.types import SnapshotPart
from agentcg.errors import AgentcgError
from agentcg.policy.hint import parse_hint
from agentcg.top.frame import frame
from agentcg.top.rows import Row, rows_of
from agentcg.top.view import Amend, Freeze, Keys, Kill, Quit, Thaw, View
from agentcg.verdict import one_line

__all__ = ["Source", "interactive", "watch"]

ESCAPE_SEC = 0.05
"""The rest of a key that is sent in pieces comes within this time."""
RESIZE_SEC = 0.02
MESSAGE_MAX = 300  # Characters.
KILL_REASON = "an operator ended it"


class Source:
    """Snapshots of a daemon, which may be started again meanwhile.

    :param path: its socket; by default AGENTCG_SOCKET, or the system's
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """A connection. :raises RemoteError: if there is no daemon"""
        if self._client is None:
            self._client = connect(self._path)
        return self._client

    def look(self) -> SnapshotPart:
        """Return what there is. :raises RemoteError: if there is no daemon"""
        try:
            return self.client.snapshot()
        except RemoteError:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None


def interactive(console: Console) -> bool:
    """Whether there is a terminal that can be drawn on, and keys come from one."""
    return console.is_terminal and not console.is_dumb_terminal and sys.stdin.isatty()


def watch(source: Source, console: Console, every_sec: float) -> None:
    """Show what happens until the user has enough. :raises RemoteError: if there is no daemon at first"""
    view, keys = View(), Keys()
    now, before = source.look(), None
    with _raw(sys.stdin.fileno()) as woken, Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic() + every_sec
        while True:
            rows = rows_of(now, before, sort=view.sort, wanted=view.wanted)
            live.update(Group(*frame(now, rows, view, *console.size)), refresh=True)
            left = max(due - time.monotonic(), 0.0)
            ready, _, _ = select.select([sys.stdin, woken], [], [], min(left, ESCAPE_SEC) if keys.waiting else left)
            pressed: list[str] = []
            if woken in ready:
                # Another size: draw again. A pseudo-terminal tells of it before it has it (pty_resize in the kernel).
                time.sleep(RESIZE_SEC)
                os.read(woken, 64)
            if sys.stdin in ready:
                data = os.read(sys.stdin.fileno(), 1024)
                if not data:
                    return
                pressed = keys.feed(data)
            elif keys.waiting:
                pressed = keys.flush()
            if not _do(pressed, view, rows, source):
                return
            if time.monotonic() >= due:
                due = time.monotonic() + every_sec
                try:
                    now, before, view.trouble = source.look(), now, ""
                except RemoteError as error:
                    view.trouble = one_line(error.message, MESSAGE_MAX)


def _do(pressed: list[str], view: View, rows: list[Row], source: Source) -> bool:
    """Do what the keys say. False if that was to leave."""
    for key in pressed:
        wish = view.press(key, rows)
        try:
            match wish:
                case Quit():
                    return False
                case Kill():
                    view.message = f"{wish.call}: {source.client.kill(wish.call, KILL_REASON).outcome}"
                case Freeze():
                    view.message = f"{wish.name}: {source.client.freeze(wish.name)}"
                case Thaw():
                    view.message = f"{wish.name}: {source.client.thaw(wish.name)}"
                case Amend():
                    view.message = _amend(source.client, wish)
        except AgentcgError as error:
            view.message = one_line(error.line, MESSAGE_MAX)
    return True


def _amend(client: Client, wish: Amend) -> str:
    intent = asdict(parse_hint(wish.hint, place="hint"))
    _, notes = client.amend(wish.call, **{name: value for name, value in intent.items() if value is not None})
    return f"{wish.call}: " + ("; ".join(notes) or f"has {wish.hint} now")


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[int]:
    """Have the terminal pass each key at once and echo none; yield what can be read when its size has changed."""
    settings = termios.tcgetattr(terminal)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGWINCH, lambda *_: os.write(wake, b"\0"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    tty.setcbreak(terminal)
    try:
        yield woken
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, settings)
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        os.close(woken)
        os.close(wake)
