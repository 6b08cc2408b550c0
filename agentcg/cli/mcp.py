# SPDX-License-Identifier: Apache-2.0
"""``agentcg mcp``: a server of the Model Context Protocol, with calls."""

from __future__ import annotations

import asyncio
import sys

import click

from agentcg.runtimes.mcp import serve
from agentcg.units import parse_size

__all__ = ["mcp"]


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--memory", metavar="SIZE", help="What the server and its calls may use in all.")
@click.option("--one-call", is_flag=True, help="The server is one call, for as long as it runs.")
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
@click.option(
    "--without-daemon",
    type=click.Choice(["run", "fail"]),
    default="run",
    show_default=True,
    envvar="AGENTCG_WITHOUT_DAEMON",
    help="When no daemon answers: run unmanaged with a warning, or fail.",
)
@click.argument("server", nargs=-1, required=True, type=click.UNPROCESSED)
def mcp(memory: str | None, one_call: bool, socket: str | None, without_daemon: str, server: tuple[str, ...]) -> None:
    """Run SERVER, of the Model Context Protocol, so that each of its tools/call is a call.

    \b
        claude mcp add tests -- agentcg mcp -- python3 my_server.py

    It is for servers that speak on standard input and output; docs/runtimes.md has what clients and servers can say in
    _meta. The exit status is SERVER's.
    """
    memory_max = None if memory is None else parse_size("--memory", memory)
    try:
        status = asyncio.run(
            serve(server, socket=socket, memory_max=memory_max, one_call=one_call, without_daemon=without_daemon)
        )
    except OSError as error:
        click.echo(f"agentcg: {server[0]}: {error.strerror}", err=True)
        status = 127 if isinstance(error, FileNotFoundError) else 126
    sys.exit(status)
