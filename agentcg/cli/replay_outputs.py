# SPDX-License-Identifier: Apache-2.0
"""What the commands of ``agentcg replay`` show: how far they have come, and how it went."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress as Bar

from agentcg.errors import AgentcgError
from agentcg.replay.arm_spec import ArmSpec
from agentcg.replay.result import to_json
from agentcg.replay.rounds import Progress
from agentcg.replay.rounds_table import render_rounds
from agentcg.replay.run_folder import FinishedArm
from agentcg.replay.table import render

__all__ = ["progress", "show", "write_json"]

QUIET_SEC = 5.0
"""Between two lines where there is no terminal."""


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line for each new thing, but not all the time. Nothing in the first second."""
    console = Console(stderr=True)
    bar = Bar(console=console, disable=not console.is_terminal, transient=True)
    task = bar.add_task("", total=1.0)
    began, told, told_at = time.monotonic(), "", -inf

    def tell(text: str, share: float) -> None:
        nonlocal told, told_at
        bar.update(task, description=text, completed=share)
        now = time.monotonic()
        if now - began < 1:
            return
        bar.start()
        if not console.is_terminal and text != told and now - told_at >= QUIET_SEC:
            click.echo(f"agentcg: {text} …", err=True)
            told, told_at = text, now

    try:
        yield tell
    finally:
        bar.stop()


def show(results: Sequence[FinishedArm], arms: Sequence[ArmSpec], json_file: Path | None, **run: object) -> None:
    """Print the table of a run that has finished, and write ``json_file``; ``run`` is what that says of the run."""
    order = [arm.name for arm in arms]
    ordered = sorted(results, key=lambda done: (done.round, order.index(done.arm)))
    several = any(done.round for done in ordered)
    with Console(stderr=True).status("working out medians and intervals"):
        table = render_rounds(ordered, order) if several else render([done.result for done in ordered])
    Console(highlight=False).print(table)
    if json_file is not None:
        values = to_json([(done.round, done.result) for done in ordered], kernel=os.uname().release, **run)
        write_json(json_file, values)


def write_json(path: Path, values: object) -> None:
    """Write what ``--json`` asked for."""
    try:
        path.write_text(json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise AgentcgError(f"{path}: cannot be written: {error.strerror}", hint="choose another --json") from None
