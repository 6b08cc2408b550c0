# SPDX-License-Identifier: Apache-2.0
"""The wire between the guest's job runner and the host: one virtio serial port, framed.

Host to guest: one line of JSON, the job. Guest to host: frames of a kind (one byte), a length (four bytes, big-endian)
and a payload. One channel for output and status means that the status cannot overtake the output.
"""

import struct

__all__ = ["EXIT", "OUTPUT", "PORT", "TROUBLE", "UP", "Decoder", "encode"]

PORT = "agentcg.job"
UP = b"U"
"""User space is reached and the job is known."""
OUTPUT = b"O"
"""Bytes that the command wrote."""
EXIT = b"X"
"""The command's exit status, in decimal: the last frame."""
TROUBLE = b"E"
"""The guest could not run the command: a sentence."""

_HEADER = struct.Struct(">cI")


def encode(kind: bytes, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return _HEADER.pack(kind, len(payload)) + payload


class Decoder:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Add bytes and return the frames that are complete now."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append((kind, bytes(self._buffer[_HEADER.size : end])))
            del self._buffer[:end]
        return frames
