# SPDX-License-Identifier: Apache-2.0
"""``agentcg report``: runs as one page for a browser."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agentcg.errors import AgentcgError
from agentcg.replay.run_folder import read_run
from agentcg.report.build import build
from agentcg.report.images import load_library, write_images
from agentcg.report.page import render

__all__ = ["report"]


@click.command()
@click.option("-o", "output", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The page.")
@click.option("--figures", metavar="DIR", type=click.Path(path_type=Path), help="Write each plot there as SVG and PNG.")
@click.option(
    "--round", "number", metavar="N", type=click.IntRange(1), help="Show this one over time. [the median one]"
)
@click.option("--open-nothing", is_flag=True, help="Do not open the page, also where there is a display.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
def report(output: Path, figures: Path | None, number: int | None, open_nothing: bool, runs: tuple[Path, ...]) -> None:
    """Say which arm of replays is ahead and how sure that is, in one page that loads nothing.

    RUN is a folder that 'agentcg replay -o' wrote. Runs of the same sessions under the same limits count as one.
    """
    library = load_library()
    found = build([read_run(run) for run in runs], number)
    try:
        output.write_text(render(found, library), encoding="utf-8")
    except OSError as error:
        raise AgentcgError(f"{output}: cannot be written: {error.strerror}", hint="choose another -o") from None
    if figures is not None:
        write_images(figures, found.figures)
    for section in found.sections:
        click.echo(f"{section.title}: {section.summary.sentence}")
    for pair in found.agreements:
        click.echo(f"{pair.title}: {pair.sentence}")
    for note in found.all_notes:
        click.echo(f"agentcg: {note}", err=True)
    if not open_nothing and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        click.launch(output.resolve().as_uri())
