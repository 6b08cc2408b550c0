# SPDX-License-Identifier: Apache-2.0
"""What an answer says: which tool it calls, and what the server counted. Read while it passes, be it streamed or not.

What is not understood is passed over: it says nothing then.
"""

from __future__ import annotations

import msgspec

__all__ = ["Answered"]

_WHOLE_MAX = 16 << 20
_LINE_MAX = 1 << 20


class _Function(msgspec.Struct):
    name: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Message(msgspec.Struct):
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None  # The older form of one call.


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct):
    """llama.cpp's own."""

    cache_n: int
    prompt_n: int
    predicted_n: int
    prompt_ms: float


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None


_DECODER = msgspec.json.Decoder(_Answer)


class Answered:
    """An answer that is passing. :param streamed: it comes as server-sent events"""

    def __init__(self, *, streamed: bool) -> None:
        self._streamed = streamed
        self._rest = b""
        self._over = False
        self.tool = ""
        """The first that it calls."""
        self.tokens: int | None = None
        """Prompt and answer together."""
        self.cached: int | None = None
        """Of the prompt, found in the cache."""
        self.computed: tuple[int, float] | None = None
        """Of the prompt, computed, and in how many seconds."""

    def feed(self, data: bytes) -> None:
        """Read on."""
        if self._over:
            return
        self._rest += data
        if not self._streamed:
            self._over = len(self._rest) > _WHOLE_MAX
        elif b"\n" in data:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    self._read(line[5:])
        elif len(self._rest) > _LINE_MAX:
            self._over = True
        if self._over:
            self._rest = b""

    def end(self) -> None:
        """Nothing more comes."""
        if not self._streamed and not self._over:
            self._read(self._rest)
        self._over, self._rest = True, b""

    def _read(self, text: bytes) -> None:
        try:
            said = _DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        for choice in said.choices or ():
            for message in (choice.message, choice.delta):
                if message is not None and not self.tool:
                    self.tool = _tool(message)
        if said.usage is not None:
            self.tokens = said.usage.total_tokens
            if said.usage.prompt_tokens_details is not None:
                self.cached = said.usage.prompt_tokens_details.cached_tokens
        if (timings := said.timings) is not None:
            self.tokens = timings.cache_n + timings.prompt_n + timings.predicted_n
            self.cached, self.computed = timings.cache_n, (timings.prompt_n, timings.prompt_ms / 1000)


def _tool(message: _Message) -> str:
    calls = [call.function for call in message.tool_calls or ()]
    for function in (*calls, message.function_call):
        if function is not None and function.name:
            return function.name
    return ""
