# SPDX-License-Identifier: Apache-2.0
"""``agentcg shim``: agentcg-exec under the names of shells."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from agentcg.errors import AgentcgError
from agentcg.launcher import launcher_path
from agentcg.policy.shell import SHELLS

__all__ = ["shim"]


@click.command()
@click.option("--remove", is_flag=True, help="Take them away again.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def shim(folder: Path, *, remove: bool) -> None:
    """Put agentcg-exec into FOLDER under the name of each shell that this host has.

    \b
        agentcg shim /opt/agentcg/shells
        PATH=/opt/agentcg/shells:$PATH SHELL=/opt/agentcg/shells/bash ./my-agent

    An agent that finds them on PATH, in SHELL or by its own option has each of its `sh -c` and `bash -c` run as a call;
    for all else they are the shells that they stand for.
    """
    launcher = launcher_path()
    for name in sorted(SHELLS):  # launcher/shell.c knows the same.
        link = folder / name
        if remove:
            if link.is_symlink() and os.path.basename(os.readlink(link)) == os.path.basename(launcher):
                link.unlink()
        elif shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin"):
            _link(link, launcher)


def _link(link: Path, launcher: str) -> None:
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and os.readlink(link) == launcher:
            return
        link.symlink_to(launcher)
    except FileExistsError as error:
        raise AgentcgError(
            f"{link} is there already", hint="name an empty folder, or one that was made by this"
        ) from error
    except OSError as error:
        raise AgentcgError(
            f"cannot make {link}: {error.strerror}", hint="name a folder that you may write to"
        ) from error
