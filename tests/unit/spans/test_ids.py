# SPDX-License-Identifier: Apache-2.0
"""Ids that can be made again."""

from agentcg.spans.ids import SPAN_BYTES, TRACE_BYTES, derive_id


def test_the_same_parts_make_the_same_id() -> None:
    assert derive_id(SPAN_BYTES, "u0/fix", 1.5) == derive_id(SPAN_BYTES, "u0/fix", 1.5)
    assert derive_id(SPAN_BYTES, "u0/fix", 1.5) != derive_id(SPAN_BYTES, "u0/fix", 1.25)
    assert derive_id(SPAN_BYTES, "a", "b") != derive_id(SPAN_BYTES, "ab")


def test_an_id_has_its_length() -> None:
    assert len(bytes.fromhex(derive_id(TRACE_BYTES, "x"))) == 16
    assert len(bytes.fromhex(derive_id(SPAN_BYTES, "x"))) == 8
