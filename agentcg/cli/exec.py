# SPDX-License-Identifier: Apache-2.0
"""``agentcg exec``."""

from __future__ import annotations

import sys

import click

from agentcg.api.client import connect
from agentcg.errors import InvalidInput
from agentcg.sandbox.docker import Engine
from agentcg.sandbox.docker_exec import DockerExec, run

__all__ = ["exec"]


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-u", "--user", default="", help="The user in the container: name or uid, and group behind a colon.")
@click.option("-w", "--workdir", help="The working directory in the container.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set in the environment; may be repeated.")
@click.option("--hint", help="What the call will need, such as memory:512m,cpu:batch.")
@click.option("--tool", help="The name of the tool that the agent called.")
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
@click.argument("container")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(  # noqa: A001  the command's name
    interactive: bool,
    user: str,
    workdir: str | None,
    env: tuple[str, ...],
    hint: str | None,
    tool: str | None,
    socket: str | None,
    container: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND as a call in an attached CONTAINER, as `docker exec` does without a terminal.

    The exit status is COMMAND's. If it hits a limit, one line on standard error says so and what to do.
    """
    environment = dict(_pair(one) for one in env)
    engine = Engine()
    found = engine.inspect(container)
    with connect(socket) as client:
        session = next((one.session for one in client.sessions() if one.container == found.id), None)
        if session is None:
            raise InvalidInput("container", f"{container} is not attached", hint=f"agentcg attach {container}")
        with client.call(command, session=session, tool=tool, hint=hint) as call:
            for note in call.notes:
                click.echo(f"agentcg: {note}", err=True)
            status = run(engine, found.id, call, DockerExec(user, workdir, environment, interactive))
            verdict = call.end(exit_code=status)
    if verdict.advice:
        click.echo(f"agentcg: {verdict.advice}", err=True)
    sys.exit(status)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidInput("--env", f"{text!r} is not NAME=VALUE", hint="write such as -e LANG=C")
    return name, value
