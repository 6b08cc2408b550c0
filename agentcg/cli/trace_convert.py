# SPDX-License-Identifier: Apache-2.0
"""``agentcg trace convert``."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from agentcg.cli.trace_sources import read_all
from agentcg.errors import AgentcgError, InvalidInput
from agentcg.trace.export import CsvWriter, OtlpWriter

__all__ = ["convert"]

_WRITERS: dict[str, type[CsvWriter] | type[OtlpWriter]] = {"csv": CsvWriter, "otlp": OtlpWriter}


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, type=click.Choice(list(_WRITERS)), help="csv: calls; otlp: spans as JSON.")
def convert(source: Path, output: Path, form: str) -> None:
    """Write recordings in a form that other programs read.

    IN is a recording, a directory of them, or anything that 'agentcg trace import' reads; all of it goes into one file.
    What cannot be converted is named at the end, and the exit status is 1.
    """
    failures: list[str] = []
    part = f"{output}.part"
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            writer = _WRITERS[form](file)
            for recording in read_all([source], failures):
                try:
                    writer.add(recording)
                except InvalidInput as error:
                    failures.append(str(error))
        os.replace(part, output)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError):
            raise AgentcgError(f"{output}: cannot be written: {error.strerror}", hint="choose another place") from None
        raise
    for failure in failures:
        click.echo(f"agentcg: {failure}", err=True)
    if failures:
        sys.exit(1)
