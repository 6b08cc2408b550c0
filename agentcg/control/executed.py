# SPDX-License-Identifier: Apache-2.0
"""What a process that an agent has executed says of itself: the command that it is, and what that is to be given."""

from __future__ import annotations

import logging

from agentcg.errors import InvalidInput
from agentcg.kernel import process
from agentcg.model import Intent, validate_command
from agentcg.policy.hint import parse_hint, take_hint
from agentcg.policy.shell import shell_text

__all__ = ["read_command", "split_command"]

log = logging.getLogger(__name__)

_HINT = "AGENT_RESOURCE_HINT"


def split_command(words: list[str]) -> tuple[str | None, str]:
    """Return the hint at the head of a shell's text, unread, and the rest; what is no shell with ``-c`` is all command.

    >>> split_command(["/bin/sh", "-c", "AGENT_RESOURCE_HINT=memory:2g pytest -x"])
    ('memory:2g', 'pytest -x')
    """
    text = shell_text(words)
    if text is None:
        return None, validate_command("command", words)
    hint, text = take_hint(text)
    return hint, validate_command("command", [text])


def read_command(pid: int) -> tuple[str, Intent]:
    """Return the command of a process, and the hint at its head or in its environment. One that cannot be read is none.

    :raises OSError: if the process has ended
    """
    found, command = split_command(process.command_words(pid))
    text = found or process.environment_variable(pid, _HINT)
    try:
        return command, parse_hint(text) if text else Intent()
    except InvalidInput as error:
        log.warning("the hint of process %d counts for nothing: %s", pid, error)
    return command, Intent()
