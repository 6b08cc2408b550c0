# SPDX-License-Identifier: Apache-2.0
"""What the runtimes share."""

import pytest

from agentcg.runtimes import with_advice


@pytest.mark.parametrize(
    ("output", "advice", "shown"),
    [
        ("out\n\n", "", "out\n\n"),
        ("out\n\n", "Ask.", "out\nagentcg: Ask.\n"),
        ("out", "Ask.", "out\nagentcg: Ask.\n"),
        ("", "Ask.", "agentcg: Ask.\n"),
    ],
)
def test_advice_is_a_line_of_its_own(output: str, advice: str, shown: str) -> None:
    assert with_advice(output, advice) == shown
