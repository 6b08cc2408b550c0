# SPDX-License-Identifier: Apache-2.0
"""``agentcg gateway``: a proxy before an LLM server that knows its sessions."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from agentcg.errors import InvalidInput, missing_extra
from agentcg.kv.policies import POLICIES

if TYPE_CHECKING:
    from agentcg.gateway.turns import EngineName

__all__ = ["check_url", "gateway"]


@click.command()
@click.option("--upstream", required=True, metavar="URL", help="The server, by the URL of its root.")
@click.option(
    "--engine", type=click.Choice(["vllm", "llamacpp", "none"]), default="none", show_default=True, help="What it is."
)
@click.option("--listen", default="127.0.0.1:8900", show_default=True, metavar="HOST:PORT", help="Where to serve.")
@click.option(
    "--policy",
    type=click.Choice(sorted(set(POLICIES) - {"clairvoyant"})),
    default="soft_pins",
    show_default=True,
    help="Whose slot is kept, with llamacpp.",
)
@click.option(
    "--files",
    type=click.IntRange(0, 4096),
    default=16,
    show_default=True,
    help="Contexts that the server saves at most, with llamacpp; each is as large as a slot. 0: it saves none.",
)
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
def gateway(upstream: str, engine: EngineName, listen: str, policy: str, files: int, socket: str | None) -> None:
    """Pass requests on to an OpenAI-compatible server, and know whose they are.

    \b
        agentcg gateway --upstream http://127.0.0.1:8080 --engine llamacpp

    A server of llama.cpp is told which slot to use; if it wants an API key, set LLAMA_API_KEY as for the server.
    docs/gateway.md says how sessions are told apart, and what is guaranteed.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInput("--listen", f"{listen!r} is not HOST:PORT", hint="write 127.0.0.1:8900")
    check_url("--upstream", upstream)
    logging.basicConfig(format="agentcg: %(message)s", level=logging.INFO)
    asyncio.run(_serve(upstream, engine, host.strip("[]"), int(port), policy, files, socket))


def check_url(place: str, text: str) -> None:
    """:raises InvalidInput: if ``text`` is not a server's URL"""
    if not text.startswith(("http://", "https://")):
        raise InvalidInput(place, f"{text[:80]!r} is not a URL", hint="write http://127.0.0.1:8080")


async def _serve(
    upstream: str, engine: EngineName, host: str, port: int, policy: str, files: int, socket: str | None
) -> None:
    try:
        from agentcg.gateway.serve import serving
    except ModuleNotFoundError as error:
        raise missing_extra("the gateway", error, "gateway") from error
    async with AsyncExitStack() as stack:
        front = serving(upstream, engine, host=host, port=port, policy=policy, files=files, socket=socket)
        try:
            port = await stack.enter_async_context(front)
        except OSError as error:
            raise InvalidInput("--listen", f"{host}:{port}: {error.strerror or error}") from error
        click.echo(f"agentcg: serving on http://{host}:{port}", err=True)
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await stopped.wait()
