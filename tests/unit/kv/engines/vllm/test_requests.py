# SPDX-License-Identifier: Apache-2.0
"""What is taken from a request."""

from types import SimpleNamespace

import pytest

from agentcg.kv.engines.vllm.requests import Told, told_by


def request(session=None, **given):
    return SimpleNamespace(session_id=session, sampling_params=SimpleNamespace(extra_args=given or None))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (request(), Told()),
        (request("u0/a"), Told("u0/a")),
        (request("u0/a", session_id="other"), Told("u0/a")),
        (request(session_id="u0/a", agentcg_tool="Bash"), Told("u0/a", "Bash")),
        (request("u0/a", agentcg_last=1), Told("u0/a", last=True)),
        (request("u0/a", agentcg_last="1"), Told("u0/a", last=True)),
        (request("u0/a", agentcg_last=0), Told("u0/a")),
        (request("u0/a", agentcg_last=[1]), Told("u0/a")),
        (request("", agentcg_tool=7), Told()),
        (request("x" * 513), Told()),
        (request("\0r1"), Told()),
        (SimpleNamespace(sampling_params=None), Told()),  # Pooling, and a vLLM without sessions.
    ],
)
def test_what_is_said_is_taken_and_nothing_else(made, told) -> None:
    assert told_by(made) == told
