# SPDX-License-Identifier: Apache-2.0
"""What went wrong, as the wire says it."""

from __future__ import annotations

import logging

from asyncvarlink import VarlinkErrorReply

from agentcg.api import interfaces as wire
from agentcg.control.registry import NoSuchCall, NoSuchSession
from agentcg.errors import AgentcgError, InvalidInput

__all__ = ["to_reply"]

log = logging.getLogger(__name__)


def to_reply(error: BaseException) -> VarlinkErrorReply:
    """Return the answer to a request that failed with ``error``; what nobody expected goes to the log as well."""
    match error:
        case VarlinkErrorReply():
            return error
        case NoSuchSession():
            return wire.NoSuchSession(session=str(error.ref))
        case NoSuchCall():
            return wire.NoSuchCall(call=str(error.ref))
        case InvalidInput():
            return wire.Invalid(place=error.place, message=error.detail, hint=error.hint)
        case AgentcgError():
            return wire.Failed(message=error.message, hint=error.hint)
        case OSError():
            log.warning("the kernel refused: %s", error)
            return wire.Failed(message=str(error), hint="see the daemon's log")
    log.error("a request failed in a way that nobody foresaw", exc_info=error)
    return wire.Failed(message=f"internal error: {type(error).__name__}: {error}", hint="see the daemon's log")
