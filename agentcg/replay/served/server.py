# SPDX-License-Identifier: Apache-2.0
"""The client of an OpenAI-compatible LLM server: streamed chats, and what they took.

https://platform.openai.com/docs/api-reference/chat-streaming; of what only some servers know, it takes ``ignore_eos``
(llama.cpp, vLLM) where a request with it is not refused, and ``timings`` (llama.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any

import aiohttp
import msgspec

from agentcg.errors import Unsupported
from agentcg.gateway.turns import SESSION_HEADER
from agentcg.replay.served.conversation import Answer, Message, NoAnswer, say
from agentcg.replay.served.lengths import TokenCount
from agentcg.units import format_duration

__all__ = ["LlmServer"]

_SAID_MAX = 300
_PROBE_WORDS = 64
_PROBE_SESSION = "agentcg-replay"


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct):
    cache_n: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None

    @property
    def text(self) -> str:
        return "".join(choice.delta.content or "" for choice in self.choices or () if choice.delta is not None)

    @property
    def cached(self) -> int | None:
        if self.timings is not None and self.timings.cache_n is not None:
            return self.timings.cache_n
        details = None if self.usage is None else self.usage.prompt_tokens_details
        return None if details is None else details.cached_tokens


_CHUNK = msgspec.json.Decoder(_Chunk)


class _Reader:
    """An answer that comes."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._text: list[str] = []
        self._first: float | None = None
        self._prompt: int | None = None
        self._output: int | None = None
        self._cached: int | None = None

    def read(self, line: bytes) -> bool:
        """Read a line; return whether it was the last. :raises NoAnswer: if it tells of an error"""
        kind, _, data = line.strip().partition(b":")
        if kind == b"data" and data.strip() == b"[DONE]":
            return True
        if kind == b"data":
            self._take(data)
        return False

    def _take(self, data: bytes) -> None:
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NoAnswer(f"the server said what was not understood: {data[:_SAID_MAX]!r}") from error
        if chunk.error is not None:
            raise NoAnswer(f"the server gave up: {data[:_SAID_MAX].decode(errors='replace')!r}")
        if text := chunk.text:
            self._first = monotonic() - self._began if self._first is None else self._first
            self._text.append(text)
        if chunk.usage is not None:
            self._prompt, self._output = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        if (cached := chunk.cached) is not None:
            self._cached = cached

    def answer(self) -> Answer:
        sec = monotonic() - self._began
        return Answer("".join(self._text), sec, self._first, self._prompt, self._cached, self._output)


@dataclass
class LlmServer:
    """A server at the URL of its root."""

    http: aiohttp.ClientSession
    url: str
    model: str | None
    timeout_sec: float
    """For each turn."""
    ignores_eos: bool = True
    """It can be told to go on where the model would end."""

    async def ask(self, messages: Sequence[Message], output_tokens: int, session: str) -> Answer:
        """Ask for ``output_tokens`` in the name of a session. :raises NoAnswer: if they do not come"""
        reader = _Reader()
        try:
            async with self.http.post(
                f"{self.url}/v1/chat/completions",
                json=self._body(messages, output_tokens),
                headers={SESSION_HEADER: session},
                timeout=aiohttp.ClientTimeout(total=self.timeout_sec),
            ) as reply:
                if reply.status != 200:
                    said = (await reply.content.read(_SAID_MAX)).decode(errors="replace")
                    raise NoAnswer(f"{self.url} answered {reply.status}: {said!r}", status=reply.status)
                async for line in reply.content:
                    if reader.read(line):
                        return reader.answer()
        except TimeoutError:
            raise NoAnswer(f"{self.url} did not answer within {format_duration(self.timeout_sec)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a line is too long.
            raise NoAnswer(f"{self.url} does not answer: {type(error).__name__}: {error}") from error
        raise NoAnswer(f"{self.url} broke off its answer")

    def _body(self, messages: Sequence[Message], output_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": messages, "max_tokens": output_tokens, "temperature": 0}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        body |= {"ignore_eos": True} if self.ignores_eos else {}
        return body if self.model is None else body | {"model": self.model}

    async def count(self) -> TokenCount:
        """Ask three short questions, and return how it counts tokens. From then on it is known what it can be told.

        :raises NoAnswer: if it does not answer
        :raises Unsupported: if it does not say what a prompt came to
        """
        draw = Random(0)  # noqa: S311  no secret is made of it
        once, more = say(draw, _PROBE_WORDS), say(draw, _PROBE_WORDS)
        try:
            short = await self._tokens(once)
        except NoAnswer as error:
            if error.status not in (400, 422):
                raise
            self.ignores_eos = False
            short = await self._tokens(once)
        long = await self._tokens(f"{once} {more}")
        three = await self._tokens(once, say(draw, 1), more)
        word = (long - short) / _PROBE_WORDS
        if word <= 0:
            raise Unsupported(f"{self.url} counts {short} tokens, and {long} in twice as many words")
        return TokenCount(word, short - _PROBE_WORDS * word, max(0.0, three - long - word))

    async def _tokens(self, *said: str) -> int:
        messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
        found = (await self.ask(messages, 1, _PROBE_SESSION)).prompt_tokens
        if found is None:
            raise Unsupported(
                f"{self.url} does not say how many tokens a prompt has",
                hint="it has to know stream_options.include_usage",
            )
        return found
