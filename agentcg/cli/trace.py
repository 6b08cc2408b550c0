# SPDX-License-Identifier: Apache-2.0
"""``agentcg trace``: import, check, repair and look at recordings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentcg.cli.trace_convert import convert
from agentcg.cli.trace_sources import shown, with_progress
from agentcg.cli.trace_stats import stats
from agentcg.errors import AgentcgError, InvalidInput
from agentcg.trace.demand import demand
from agentcg.trace.format import read, write
from agentcg.trace.model import Recording
from agentcg.trace.registry import IMPORTERS, find_sources, named
from agentcg.units import format_duration, format_size

__all__ = ["trace"]

_FILE = click.Path(path_type=Path)


@click.group()
def trace() -> None:
    """Recordings of agent sessions: import, check, show, sum up and convert them."""


trace.add_command(stats)
trace.add_command(convert)


@trace.command("import")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=_FILE)
@click.option(
    "-o", "--output", "out_dir", metavar="OUT_DIR", required=True, type=_FILE, help="Where the recordings go."
)
@click.option(
    "--format",
    "name",
    type=click.Choice([importer.name for importer in IMPORTERS]),
    help="Read SRC as this. [what it looks like]",
)
@click.option("--without-start", is_flag=True, help="Leave out the start of the container and the agent.")
def import_(sources: Sequence[Path], out_dir: Path, name: str | None, without_start: bool) -> None:
    """Make recordings of what other programs recorded, one file a session.

    SRC is a file or a directory of a format that --format names, or a directory above such ones. A session that is
    broken is named at the end, the others are imported, and the exit status is 1.
    """
    importers = (named(name),) if name else IMPORTERS
    found = [item for path in sources for item in find_sources(path, importers, include_start=not without_start)]
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgentcgError(f"{out_dir}: cannot be made: {error.strerror}", hint="choose another place") from None
    written: dict[str, Path] = {}
    failures: list[str] = []
    for importer, source in with_progress(found, "importing"):
        try:
            for recording in importer.read(source):
                if recording.name in written:
                    raise InvalidInput(
                        str(source.path),
                        f"would be written to the same file as {written[recording.name]}",
                        hint="import them into two directories",
                    )
                write(recording, out_dir / f"{recording.name}.jsonl")
                written[recording.name] = source.path
                for warning in recording.warnings:
                    click.echo(f"agentcg: note: {warning}", err=True)
        except InvalidInput as error:
            failures.append(str(error))
    for failure in failures:
        click.echo(f"agentcg: {failure}", err=True)
    click.echo(f"{len(written)} of {len(written) + len(failures)} recordings are in {out_dir}")
    if failures:
        sys.exit(1)


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
    if recording.timing != "clock":
        return f"{len(recording.calls)} calls that took {recording.duration_sec:.1f} s; when they ran is not known"
    return f"{len(recording.calls)} calls, {len(recording.samples)} samples, {recording.duration_sec:.1f} s"


@trace.command()
@click.argument("file", metavar="FILE", type=_FILE)
def show(file: Path) -> None:
    """Show the calls of a recording and what each held at most beside the agent."""
    recording = read(file)
    needs = demand(recording) if recording.session_samples else None
    peaks = {call.call.id: call.memory.peak for call in needs.calls} if needs else {}
    table = Table(title=Text(shown(recording.name)), title_justify="left", expand=True)
    for heading in ("Start", "Duration", "Peak over base"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Tool", no_wrap=True)
    table.add_column("Command", no_wrap=True, ratio=1)
    for call in recording.calls:
        peak = peaks.get(call.id)
        table.add_row(
            f"{call.start_sec:.1f} s" if recording.timing == "clock" else "–",
            ("≤ " if call.end_estimated else "") + format_duration(call.duration_sec),
            "–" if peak is None else format_size(peak),
            Text(shown(call.tool)),
            Text(shown(call.command)),
        )
    console = Console()
    console.print(table)
    console.print(_summary(recording), highlight=False)
    if needs:
        growth = needs.growth
        console.print(
            f"The agent idles at {format_size(needs.base_memory)}, the session peaks at "
            f"{format_size(recording.memory_peak)}. From the first call on memory grew by {format_size(growth.total)}, "
            f"of which {format_size(growth.in_calls)} in calls; {format_size(growth.outlived)} of that outlived them.",
            highlight=False,
        )
