# SPDX-License-Identifier: Apache-2.0
"""The options of ``agentcg replay live`` for an LLM server in the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import click

from agentcg.cli.gateway import check_url
from agentcg.errors import InvalidInput
from agentcg.jsonkeys import camel_keys
from agentcg.replay.plan import SessionPlan
from agentcg.replay.served.options import ServerEngine, ServerOptions, require_turns
from agentcg.units import parse_duration

__all__ = ["describe_server", "server_of", "server_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--server", metavar="URL", help="Ask this LLM server in place of the recorded turns' pauses."),
    click.option("--model", metavar="NAME", help="Of the server's, where it has to be named."),
    click.option("--engine", type=click.Choice(get_args(ServerEngine)), help="What it is; agentcg manages llamacpp."),
    click.option("--server-tokens", metavar="N", type=click.IntRange(64), help="Of the longest context. [as recorded]"),
    click.option("--server-timeout", metavar="DURATION", help="For each turn. [5m]"),
)


def server_options(command: _F) -> _F:
    """Give a command the options of a server."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def server_of(
    plans: Sequence[SessionPlan],
    url: str | None,
    model: str | None,
    engine: ServerEngine | None,
    context_max: int | None,
    timeout: str | None,
) -> ServerOptions | None:
    """Return which server is asked, and how; None if none is. :raises InvalidInput: if it cannot be asked"""
    given = {"--model": model, "--engine": engine, "--server-tokens": context_max, "--server-timeout": timeout}
    if url is None:
        for name, value in given.items():
            if value is not None:
                raise InvalidInput(name, "there is no server", hint="name it by --server")
        return None
    check_url("--server", url)
    require_turns(plans)
    return ServerOptions(
        url=url.rstrip("/").removesuffix("/v1"),
        model=model,
        engine=engine or "none",
        context_max=context_max,
        timeout_sec=parse_duration("--server-timeout", timeout or "5m"),
    )


def describe_server(server: ServerOptions | None) -> dict[str, Any]:
    """Return what a run's description says of its server: nothing without one."""
    return {} if server is None else {"server": camel_keys(dataclasses.asdict(server))}
