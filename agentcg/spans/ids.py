# SPDX-License-Identifier: Apache-2.0
"""Ids of traces and spans that are made of what these are of, so that whoever makes them again makes the same."""

from __future__ import annotations

import hashlib

__all__ = ["SPAN_BYTES", "TRACE_BYTES", "derive_id"]

TRACE_BYTES, SPAN_BYTES = 16, 8
"""How long ids are: www.w3.org/TR/trace-context, "traceparent header"."""


def derive_id(size: int, *parts: object) -> str:
    """Return an id of ``size`` bytes, in hexadecimal digits: the same for the same parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[: 2 * size]
