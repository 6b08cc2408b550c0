# SPDX-License-Identifier: Apache-2.0
"""What a request asks for, as far as it matters here: what its prompt begins with, and how long it is.

A prompt is a list of pieces, each the bytes that the client sent: the tools, then message by message; of a prompt that
is one string, 64 bytes each. Nothing is understood but the roles: what is equal was sent equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["Asked", "insert", "read_request"]

_PIECE = 64
_BYTES_PER_TOKEN = 4
_PREAMBLE = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for one turn."""

    pieces: Sequence[bytes]
    preamble: int
    """How many of them may be those of many sessions: tools and system messages. Of a string, all."""
    has_slot: bool
    """It names its slot itself."""
    has_cache_prompt: bool
    has_xargs: bool
    """It says something to vLLM's plug-ins."""

    @property
    def tokens(self) -> int:
        """About how many its prompt has."""
        return sum(map(len, self.pieces)) // _BYTES_PER_TOKEN


class _Body(msgspec.Struct):
    messages: list[msgspec.Raw] | None = None
    prompt: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    id_slot: msgspec.Raw = msgspec.Raw()
    cache_prompt: msgspec.Raw = msgspec.Raw()
    vllm_xargs: msgspec.Raw = msgspec.Raw()


class _Role(msgspec.Struct):
    role: str = ""


_BODY = msgspec.json.Decoder(_Body)
_ROLE = msgspec.json.Decoder(_Role)


def read_request(path: str, body: bytes) -> Asked | None:
    """Return what is asked for at ``path``, or None if that is no turn, or is not understood."""
    if not path.endswith(("/completions", "/completion")):
        return None
    try:
        found = _BODY.decode(body)
        if found.messages:
            pieces = [bytes(each) for each in (found.tools, *found.messages)]
            preamble = 1
            while preamble < len(pieces) and _ROLE.decode(pieces[preamble]).role in _PREAMBLE:
                preamble += 1
        elif (prompt := bytes(found.prompt)).startswith(b'"'):
            pieces = [prompt[start : start + _PIECE] for start in range(0, len(prompt), _PIECE)]
            pieces = pieces[:-1] or pieces  # The last one is longer the next time.
            preamble = len(pieces)
        else:
            return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    named = (found.id_slot, found.cache_prompt, found.vllm_xargs)
    return Asked(pieces, preamble, *(bool(bytes(each)) for each in named))


def insert(body: bytes, fields: Mapping[str, Any]) -> bytes:
    """Return the body, of a request that was understood, with more fields. The rest of it stays as it was sent."""
    if not fields:
        return body
    begin = body.index(b"{") + 1
    return body[:begin] + msgspec.json.encode(fields)[1:-1] + b"," + body[begin:]
