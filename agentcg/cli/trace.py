# SPDX-License-Identifier: Apache-2.0
"""``agentcg trace``: import, check, repair and look at recordings."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.trace.agentcgroup import find_attempts, import_attempt, recording_name
from agentcg.trace.demand import demand
from agentcg.trace.format import read, write
from agentcg.trace.model import Recording
from agentcg.units import format_duration, format_size

__all__ = ["trace"]

_FILE = click.Path(path_type=Path)


@click.group()
def trace() -> None:
    """Recordings of agent sessions: import, check and show them."""


@trace.command("import")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=_FILE)
@click.option(
    "-o", "--output", "out_dir", metavar="OUT_DIR", required=True, type=_FILE, help="Where the recordings go."
)
@click.option("--without-start", is_flag=True, help="Leave out the start of the container and the agent.")
def import_(sources: Sequence[Path], out_dir: Path, without_start: bool) -> None:
    """Make recordings of AgentCgroup attempts, one file a session.

    SRC is a directory attempt_N, or any directory above such ones. An attempt that is broken is named, the others are
    imported, and the exit status is 1.
    """
    attempts = [attempt for source in sources for attempt in find_attempts(source)]
    targets: dict[str, Path] = {}
    for attempt in attempts:
        if targets.setdefault(recording_name(attempt), attempt) != attempt:
            raise InvalidInput(
                str(attempt),
                f"would be written to the same file as {targets[recording_name(attempt)]}",
                hint="import them into two directories",
            )
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgentcgError(f"{out_dir}: cannot be made: {error.strerror}", hint="choose another place") from None
    failed = 0
    for name, attempt in _with_progress(targets):
        try:
            recording = import_attempt(attempt, include_start=not without_start)
            write(recording, out_dir / f"{name}.jsonl")
        except InvalidInput as error:
            failed += 1
            click.echo(f"agentcg: {error}", err=True)
        else:
            for warning in recording.warnings:
                click.echo(f"agentcg: note: {warning}", err=True)
    click.echo(f"{len(targets) - failed} of {len(targets)} recordings are in {out_dir}")
    if failed:
        sys.exit(1)


def _with_progress(targets: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """The items; a bar on the terminal if they take longer than a second."""
    console = Console(stderr=True)
    began = time.monotonic()
    progress = Progress(console=console, disable=not console.is_terminal, transient=True)
    task = progress.add_task("importing", total=len(targets))
    try:
        for item in targets.items():
            yield item
            progress.advance(task)
            if time.monotonic() - began > 1:
                progress.start()
    finally:
        progress.stop()


@trace.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_FILE)
def validate(files: Sequence[Path]) -> None:
    """Check recordings: one line each, exit status 1 if one is broken."""
    failed = False
    for file in files:
        try:
            click.echo(f"{file}: ok, {_summary(read(file))}")
        except InvalidInput as error:
            failed = True
            click.echo(str(error), err=True)
    if failed:
        sys.exit(1)


@trace.command()
@click.argument("file", metavar="FILE", type=_FILE)
@click.option("-o", "--output", metavar="OUT", required=True, type=_FILE, help="The repaired recording.")
def salvage(file: Path, output: Path) -> None:
    """Keep what a recording that was cut off still holds."""
    recording = read(file, allow_cut=True)
    write(recording, output)
    for warning in recording.warnings:
        click.echo(f"agentcg: note: {warning}", err=True)
    click.echo(f"{output}: {_summary(recording)}")


def _summary(recording: Recording) -> str:
    return f"{len(recording.calls)} calls, {len(recording.samples)} samples, {recording.duration_sec:.1f} s"


@trace.command()
@click.argument("file", metavar="FILE", type=_FILE)
def show(file: Path) -> None:
    """Show the calls of a recording and what each held at most beside the agent."""
    recording = read(file)
    needs = demand(recording) if recording.session_samples else None
    peaks = {call.call.id: call.memory.peak for call in needs.calls} if needs else {}
    table = Table(title=_shown(recording.name), title_justify="left", expand=True)
    for heading in ("Start", "Duration", "Peak over base"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Tool", no_wrap=True)
    table.add_column("Command", no_wrap=True, ratio=1)
    for call in recording.calls:
        peak = peaks.get(call.id)
        table.add_row(
            f"{call.start_sec:.1f} s",
            ("≤ " if call.end_estimated else "") + format_duration(call.duration_sec),
            "–" if peak is None else format_size(peak),
            _shown(call.tool),
            _shown(call.command),
        )
    console = Console()
    console.print(table)
    console.print(_shown(_summary(recording)), highlight=False)
    if needs:
        growth = needs.growth
        console.print(
            f"The agent idles at {format_size(needs.base_memory)}, the session peaks at "
            f"{format_size(recording.memory_peak)}. From the first call on memory grew by {format_size(growth.total)}, "
            f"of which {format_size(growth.in_calls)} in calls; {format_size(growth.outlived)} of that outlived them.",
            highlight=False,
        )


def _shown(text: str) -> Text:
    """``text`` on one line, with nothing in it that a terminal or rich would act on."""
    return Text("".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text))
