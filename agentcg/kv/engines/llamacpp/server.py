# SPDX-License-Identifier: Apache-2.0
"""What is asked of llama.cpp's HTTP server: who it is, and to save, restore and erase a slot.

https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import msgspec

from agentcg.errors import AgentcgError

__all__ = ["Copied", "Described", "EngineError", "SlotServer"]

_ANSWER_SEC = 5.0
_COPY_SEC = 60.0
"""A slot is copied between two batches, and one may take long on a CPU."""


class EngineError(AgentcgError):
    """The server did not do what it was asked, or does not answer."""


class Described(NamedTuple):
    """What a server says of itself."""

    slots: int
    context: int
    """Tokens that a slot holds."""
    identity: str
    """Another with another model, and after each restart where its build has a random number in its properties."""


class Copied(NamedTuple):
    """What was written to a file, or read from it."""

    tokens: int
    bytes: int
    sec: float


class SlotServer:
    """A llama.cpp server. :raises EngineError: from everything, if it refuses or does not answer"""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str = "") -> None:
        """:param key: its API key, if it asks for one"""
        self._http, self._url = http, url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def describe(self) -> Described:
        """Ask how many slots it has, and of what size."""
        said = await self._ask("GET", "/props")
        try:
            properties = msgspec.json.decode(said)
            count, context = int(properties["total_slots"]), int(properties["default_generation_settings"]["n_ctx"])
        except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
            raise EngineError(f"{self._url} is no llama.cpp server: it does not say what slots it has") from error
        if count < 1 or context < 1:
            raise EngineError(f"{self._url} has {count} slots of {context} tokens")
        return Described(count, context, _digest(said))

    async def identity(self) -> str:
        """Ask only who it is."""
        return _digest(await self._ask("GET", "/props"))

    async def save(self, slot: int, name: str) -> Copied:
        """Write a slot to a file in the folder that it was started with."""
        return self._copied(await self._act(slot, "save", name), "n_saved", "n_written", "save_ms")

    async def restore(self, slot: int, name: str) -> Copied:
        """Read a slot from such a file."""
        return self._copied(await self._act(slot, "restore", name), "n_restored", "n_read", "restore_ms")

    async def erase(self, slot: int) -> None:
        """Forget what a slot holds."""
        await self._act(slot, "erase")

    def _copied(self, answer: bytes, tokens: str, size: str, milliseconds: str) -> Copied:
        try:
            said = msgspec.json.decode(answer)
            return Copied(int(said[tokens]), int(said[size]), float(said["timings"][milliseconds]) / 1000)
        except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
            raise EngineError(f"{self._url} answered what was not understood: {answer[:200]!r}") from error

    async def _act(self, slot: int, action: str, name: str | None = None) -> bytes:
        body: Mapping[str, Any] = {} if name is None else {"filename": name}
        return await self._ask("POST", f"/slots/{slot}?action={action}", body, _COPY_SEC)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, limit_sec: float = _ANSWER_SEC
    ) -> bytes:
        limit = aiohttp.ClientTimeout(total=limit_sec)
        try:
            async with self._http.request(
                method, self._url + path, json=body, headers=self._headers, timeout=limit
            ) as reply:
                answer: bytes = await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineError(f"{self._url} does not answer: {type(error).__name__}: {error}") from error
        if reply.status != 200:
            said = answer[:200].decode(errors="replace")
            raise EngineError(f"{self._url}{path} answered {reply.status}: {said}")
        return answer


def _digest(said: bytes) -> str:
    return hashlib.blake2b(said, digest_size=16).hexdigest()
