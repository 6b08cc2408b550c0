# SPDX-License-Identifier: Apache-2.0
"""``agentcg doctor``."""

from __future__ import annotations

import dataclasses
import json

import click

from agentcg.probe import Rung, probe

__all__ = ["doctor"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what agentcg can enforce on this host, and how to get the rest.

    The exit status is 0 if calls can be limited here, and 1 if not.
    """
    rungs = probe()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(rung) | {"holds": rung.holds} for rung in rungs], indent=2))
    else:
        for rung in rungs:
            _print(rung)
    enforcing = next(rung for rung in rungs if rung.name == "cgroup")
    raise SystemExit(0 if enforcing.holds else 1)


def _print(rung: Rung) -> None:
    mark = click.style("yes", fg="green") if rung.holds else click.style("no ", fg="red")
    unused = "" if rung.used else "; this version does not use it"
    click.echo(f"{mark} {click.style(rung.name, bold=True)}: {rung.gives}{unused}")
    for check in rung.checks:
        if check.holds:
            click.echo(f"      {check.name}: {check.found}")
        else:
            click.echo(f"    {'!' if check.needed else '-'} {check.name}: {check.found}")
            if check.fix:
                click.echo(f"        fix: {check.fix}")
