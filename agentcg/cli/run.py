# SPDX-License-Identifier: Apache-2.0
"""``agentcg run``: the launcher with options that are checked and explained."""

from __future__ import annotations

import json
import os
from typing import NoReturn

import click

from agentcg.launcher import launcher_path
from agentcg.units import parse_duration, parse_rate, parse_size

__all__ = ["run"]

_CLASSES = click.Choice(["interactive", "normal", "batch"])


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--memory", metavar="SIZE", help="The most it may use, such as 512M.")
@click.option("--expect", metavar="SIZE", help="What it is expected to use.")
@click.option("--swap", metavar="SIZE", help="How much of that may be swapped out.")
@click.option("--cpu", type=_CLASSES, help="How soon it needs a CPU.")
@click.option("--cores", type=float, help="How many CPUs it may use.")
@click.option("--io", type=_CLASSES, help="How soon it needs the disk.")
@click.option("--pids", type=int, help="How many processes and threads it may have.")
@click.option("--time", "duration", metavar="DURATION", help="How long it may take, such as 90s or 10m.")
@click.option("--network", metavar="RATE", help="Bytes per second that it may send, such as 10M; none: only loopback.")
@click.option("--priority", type=int, help="0 to 100; a higher one is the last to be ended. Ordinary is 50.")
@click.option("--session", help="The session that the call belongs to. [AGENTCG_SESSION]")
@click.option("--tool", help="The name of the tool that the agent called.")
@click.option("--id", "name", help="The call's name in its session.")
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
@click.option(
    "--without-daemon",
    type=click.Choice(["run", "fail"]),
    help="When no daemon answers: run unmanaged with a warning, or exit with 125.  [default: run]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON on standard error.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    memory: str | None,
    expect: str | None,
    swap: str | None,
    cpu: str | None,
    cores: float | None,
    io: str | None,
    pids: int | None,
    duration: str | None,
    network: str | None,
    priority: int | None,
    session: str | None,
    tool: str | None,
    name: str | None,
    socket: str | None,
    without_daemon: str | None,
    as_json: bool,
    command: tuple[str, ...],
) -> NoReturn:
    """Run COMMAND as one tool call, in a cgroup of its own.

    \b
        agentcg run --memory 512M -- pytest -x

    The exit status is COMMAND's. If it hits a limit, one line on standard error says so and what to do; 125 means
    that the daemon refused, and says why.
    """
    intent = {
        "memoryMax": _size("--memory", memory),
        "memoryExpected": _size("--expect", expect),
        "swapMax": 0 if swap == "0" else _size("--swap", swap),
        "cpuClass": cpu,
        "cpuCores": cores,
        "ioClass": io,
        "pidsMax": pids,
        "durationMaxSec": None if duration is None else parse_duration("--time", duration),
        "networkRate": None if network is None else parse_rate("--network", network),
        "priority": priority,
    }
    given = {key: value for key, value in intent.items() if value is not None}
    launcher = launcher_path()
    arguments = [launcher]
    if given:
        arguments += ["--intent", json.dumps(given)]
    options = {"--session": session, "--tool": tool, "--id": name, "--socket": socket}
    options |= {"--without-daemon": without_daemon, "--verdict": "json" if as_json else None}
    for option, value in options.items():
        if value is not None:
            arguments += [option, value]
    os.execv(launcher, [*arguments, "--", *command])  # noqa: S606  the point of the command


def _size(place: str, text: str | None) -> int | None:
    return None if text is None else parse_size(place, text)
