# SPDX-License-Identifier: Apache-2.0
"""``agentcg daemon``."""

from __future__ import annotations

import asyncio
import logging
import sys

import click

from agentcg.control.view import MECHANISMS, Mechanism
from agentcg.daemon import DEFAULT_HISTORY, DEFAULT_SOCKET, Options, serve
from agentcg.journal import log_handler
from agentcg.sandbox.docker import Pattern
from agentcg.units import parse_size

__all__ = ["daemon"]


@click.command()
@click.option("--socket", default=DEFAULT_SOCKET, show_default=True, envvar="AGENTCG_SOCKET", help="Where to listen.")
@click.option("--policy", default="default", show_default=True, help="A preset's name or a policy file.")
@click.option("--history", default=DEFAULT_HISTORY, show_default=True, help="Where verdicts are kept.")
@click.option("--root", help="The cgroup to use, a directory below a cgroup v2 mount. By default the host decides.")
@click.option("--memory-max", metavar="SIZE", help="What all sessions may use together, such as 6G.")
@click.option("--operators", default="agentcg", show_default=True, help="The group whose members may do everything.")
@click.option("--metrics", metavar="ADDR", help="Let Prometheus scrape: 127.0.0.1:PORT or unix:PATH.")
@click.option("--otlp", metavar="URL", help="Send spans to this collector: http://127.0.0.1:4318.")
@click.option("--observe", is_flag=True, help="Go on without the memory controller: account, kill, but do not limit.")
@click.option("--confine", is_flag=True, help="Have BPF programs keep calls in their cgroups, and count what they try.")
@click.option("--events", is_flag=True, help="Have BPF programs tell of throttling, kills and growth as they happen.")
@click.option("--scheduler", is_flag=True, help="Have a BPF scheduler run the calls of sessions not protected.")
@click.option(
    "--containers",
    multiple=True,
    metavar="PATTERN",
    help="Attach Docker containers that match: agent-*, label=KEY=VALUE.",
)
@click.option(
    "--without", multiple=True, type=click.Choice(MECHANISMS), help="Do not do this of what protects; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Log whom the controller would stop or end, and leave all running.")
@click.option("-v", "--verbose", is_flag=True, help="Log every event.")
def daemon(
    socket: str,
    policy: str,
    history: str,
    root: str | None,
    memory_max: str | None,
    operators: str,
    metrics: str | None,
    otlp: str | None,
    observe: bool,
    confine: bool,
    events: bool,
    scheduler: bool,
    containers: tuple[str, ...],
    without: tuple[Mechanism, ...],
    dry_run: bool,
    verbose: bool,
) -> None:
    """Make a cgroup for every tool call that asks for one, until stopped.

    Stopping it, in whatever way, ends no call: limits stay in place, and the next start takes every live call over.
    """
    logging.basicConfig(
        format="%(levelname)s %(name)s: %(message)s", level=logging.INFO, handlers=[log_handler(sys.stderr)]
    )
    logging.getLogger("agentcg.events").setLevel(logging.INFO if verbose else logging.WARNING)
    options = Options(
        socket=socket,
        policy=policy,
        history=history,
        root=root,
        memory_max=parse_size("--memory-max", memory_max) if memory_max else None,
        operators=operators,
        metrics=metrics,
        otlp=otlp,
        observe=observe,
        confine=confine,
        events=events,
        scheduler=scheduler,
        containers=tuple(Pattern.parse(text) for text in containers),
        without=frozenset(without),
        dry_run=dry_run,
    )
    asyncio.run(serve(options))
