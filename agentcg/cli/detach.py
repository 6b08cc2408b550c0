# SPDX-License-Identifier: Apache-2.0
"""``agentcg detach``."""

from __future__ import annotations

import click

from agentcg.api.client import connect

__all__ = ["detach"]


@click.command()
@click.argument("container")
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
def detach(container: str, socket: str | None) -> None:
    """End the calls of an attached Docker CONTAINER, and leave it as it was found."""
    with connect(socket) as client:
        for verdict in client.detach(container):
            click.echo(f"{verdict.call}: {verdict.outcome}")
