# SPDX-License-Identifier: Apache-2.0
"""One peer's connection: messages in, replies out.

The types and the conversion are asyncvarlink's; its transport is not used. That one peeks before it reads and takes a
turn of the loop for each step of a reply, which would cost a short call more than its cgroup does, and it does not
notice the end of a connection while it answers on it, which here is the end of a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from asyncvarlink import (
    AnnotatedResult,
    FileDescriptorArray,
    VarlinkInterfaceRegistry,
    VarlinkMethodCall,
    VarlinkMethodReply,
    VarlinkMethodSignature,
)
from asyncvarlink.conversion import ConversionError, FileDescriptorVarlinkType

from agentcg.api import interfaces as wire
from agentcg.api.replies import to_reply

__all__ = ["MESSAGE_MAX", "Connection"]

MESSAGE_MAX = 256 * 1024
"""The longest message in bytes. The longest that makes sense, a command of 128 KiB, fits."""
_READ = 65_536
_WAITING_MAX = 64  # Requests that a peer may send ahead of their answers before it is made to wait.

_HINT = "send one JSON object with a NUL byte behind it"


class Connection:
    """Answers a peer's requests, one after the other, until it hangs up. Then ``closed`` is called, once."""

    def __init__(
        self, sock: socket.socket, interfaces: VarlinkInterfaceRegistry, closed: Callable[[Connection], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._interfaces, self._closed = sock, interfaces, closed
        self._input = bytearray()
        self._waiting: deque[bytes] = deque()
        self._output: deque[tuple[bytes, list[int]]] = deque()
        self._drained = asyncio.Event()
        self._drained.set()
        self._task: asyncio.Task[None] | None = None
        self._streaming = self._ended = self._reading = False
        self._open = True
        sock.setblocking(False)
        self._read_on()

    # In

    def _read_on(self) -> None:
        if not self._reading and not self._ended and self._open:
            self._reading = True
            self._loop.add_reader(self._sock, self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock)

    def _readable(self) -> None:
        try:
            # Descriptors that a peer passes are dropped by the kernel: no method takes any.
            data = self._sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._peer_ended()
            return
        self._input += data
        *messages, rest = self._input.split(b"\0")
        self._input = rest
        self._waiting.extend(bytes(message) for message in messages)
        if len(rest) > MESSAGE_MAX:
            self._violation(f"the message is longer than {MESSAGE_MAX} bytes")
            return
        if len(self._waiting) > _WAITING_MAX:
            self._pause()
        self._next()

    def _peer_ended(self) -> None:
        """What the peer asked before it hung up is still done; what it listened to is over."""
        self._ended = True
        self._pause()
        if self._streaming and self._task is not None:
            self._task.cancel()
        self._next()

    def _next(self) -> None:
        # A peer that does not read its answers gets no more of them; _writable comes back here.
        while self._open and self._task is None and self._waiting and not self._output:
            self._handle(self._waiting.popleft())
        if self._open and self._task is None and not self._output:
            if self._ended:
                self.close()
            else:
                self._read_on()

    def _handle(self, message: bytes) -> None:
        call = self._parse(message)
        if call is None:
            return
        try:
            method, signature = self._interfaces.lookup_method(call)
            try:
                # None of the methods takes a descriptor, so there is no place to look one up.
                parameters = signature.parameter_type.fromjson(call.parameters)
            except ConversionError as error:
                place = ".".join(str(step) for step in error.location) or "parameters"
                hint = f"see `varlinkctl introspect` of {call.method_interface}"
                raise wire.Invalid(place=place, message=error.message, hint=hint) from error
            if signature.asynchronous:
                self._streaming = signature.more
                self._task = asyncio.create_task(self._run(method, signature, parameters, call.oneway))
                self._task.add_done_callback(self._done)
            else:
                self._answer(signature, method(**parameters), call.oneway)
        except Exception as error:
            self._refuse(error, call.oneway)

    def _parse(self, message: bytes) -> VarlinkMethodCall | None:
        if len(message) > MESSAGE_MAX:
            self._violation(f"the message is longer than {MESSAGE_MAX} bytes")
            return None
        try:
            value = json.loads(message)
            if not isinstance(value, dict):
                raise TypeError("received JSON value is not an object")
        except (json.JSONDecodeError, TypeError) as error:
            self._violation(f"the message is not a JSON object: {error}")
            return None
        except (ValueError, RecursionError) as error:
            # Not UTF-8, a number of thousands of digits, or brackets nested beyond the interpreter's depth.
            self._violation(f"the message cannot be read: {error}")
            return None
        try:
            return VarlinkMethodCall.fromjson(value)
        except (TypeError, ValueError) as error:
            self._violation(f"the message is not a method call: {error}")
        return None

    def _violation(self, message: str) -> None:
        # After this nobody knows where the next message starts: answer, and hang up.
        self._ended = True
        self._pause()
        self._input.clear()
        self._waiting.clear()
        self._refuse(wire.Invalid(place="message", message=message, hint=_HINT), oneway=False)
        self._next()

    # Work

    async def _run(
        self, method: Callable[..., Any], signature: VarlinkMethodSignature, parameters: dict[str, Any], oneway: bool
    ) -> None:
        try:
            if not signature.more:
                self._answer(signature, await method(**parameters), oneway)
                return
            async with contextlib.aclosing(method(**parameters)) as results:
                async for result in results:
                    self._answer(signature, result, oneway)
                    await self._drained.wait()
        except Exception as error:
            self._refuse(error, oneway)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._streaming = False
        if not task.cancelled():
            task.exception()  # There is none: _run answers with it.
        self._next()

    # Out

    def _answer(self, signature: VarlinkMethodSignature, result: AnnotatedResult, oneway: bool) -> None:
        # Descriptors in the result are ours to close, whether they are sent or not.
        with FileDescriptorArray.new_managed() as passed:
            parameters = signature.return_type.tojson(result.parameters, {FileDescriptorVarlinkType: passed})
            if not oneway:
                self._send(VarlinkMethodReply(parameters, continues=result.continues), [fd.fileno() for fd in passed])

    def _refuse(self, error: Exception, oneway: bool) -> None:
        reply = to_reply(error)
        if not oneway:
            self._send(reply.toreply(), [])

    def _send(self, reply: VarlinkMethodReply, descriptors: list[int]) -> None:
        if not self._open:
            return
        data = _encode(reply) + b"\0"
        if not self._output:
            sent = self._write(data, descriptors)
            if sent == len(data) or not self._open:
                return
            data, descriptors = data[sent:], [] if sent else descriptors
            self._loop.add_writer(self._sock, self._writable)
        self._output.append((data, [os.dup(fd) for fd in descriptors]))
        self._drained.clear()

    def _write(self, data: bytes, descriptors: list[int]) -> int:
        try:
            return socket.send_fds(self._sock, [data], descriptors) if descriptors else self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.close()
            return 0

    def _writable(self) -> None:
        while self._output and self._open:
            data, descriptors = self._output[0]
            sent = self._write(data, descriptors)
            if not sent:
                return
            for fd in descriptors:
                os.close(fd)
            if sent < len(data):
                self._output[0] = (data[sent:], [])
                return
            self._output.popleft()
        if self._open:
            self._loop.remove_writer(self._sock)
            self._drained.set()
            self._next()

    def close(self) -> None:
        """Hang up."""
        if not self._open:
            return
        self._open = False
        self._pause()
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, descriptors in self._output:
            for fd in descriptors:
                os.close(fd)
        self._output.clear()
        self._drained.set()
        if self._task is not None and self._streaming:
            self._task.cancel()
        self._closed(self)


def _encode(reply: VarlinkMethodReply) -> bytes:
    value = reply.tojson()
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # It quotes something of the peer's that is not text; the standard library escapes it.
        return json.dumps(value).encode()
