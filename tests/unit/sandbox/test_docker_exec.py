# SPDX-License-Identifier: Apache-2.0
"""The engine's stream, in pieces. The rest is tested with a real engine."""

import io
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from agentcg.errors import Unsupported
from agentcg.sandbox.docker import Engine
from agentcg.sandbox.docker_exec import _take_frames, run


def frame(stream: int, text: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(text)) + text


@pytest.mark.parametrize("step", [1, 3, 8, 9, 1000])
def test_frames_come_in_pieces_of_any_size(step: int) -> None:
    sent = frame(1, b"out ") + frame(2, b"error") + frame(1, b"") + frame(1, b"put")
    targets = {1: io.BytesIO(), 2: io.BytesIO()}
    pending = bytearray()
    for start in range(0, len(sent), step):
        pending += sent[start : start + step]
        _take_frames(pending, targets)
    assert (targets[1].getvalue(), targets[2].getvalue(), pending) == (b"out put", b"error", b"")


def test_nobody_but_root_is_passed_the_way_in() -> None:
    call: Any = SimpleNamespace(procs=-1)
    with pytest.raises(Unsupported, match="root"):
        run(Engine(), "one", call)
