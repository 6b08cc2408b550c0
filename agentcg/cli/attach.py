# SPDX-License-Identifier: Apache-2.0
"""``agentcg attach``."""

from __future__ import annotations

import click

from agentcg.api.client import connect

__all__ = ["attach"]


@click.command()
@click.argument("container")
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
def attach(container: str, socket: str | None) -> None:
    """Make a running Docker CONTAINER a session, and print the session's name.

    Its own cgroup is divided into `init`, where what lives in it goes on, and `calls`. `agentcg exec` runs calls there.
    """
    with connect(socket) as client:
        click.echo(client.attach(container).session)
