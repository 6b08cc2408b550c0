# SPDX-License-Identifier: Apache-2.0
"""The names of arms."""

import pytest

from agentcg.errors import InvalidInput
from agentcg.replay.arm_spec import ArmSpec, parse_arm


@pytest.mark.parametrize("name", ["none", "static", "high-only", "psi-loop", "agentcg"])
def test_a_kind_is_an_arm(name):
    assert parse_arm(name) == ArmSpec(name, name, "default")


def test_agentcg_has_policies():
    assert parse_arm("agentcg=policies/a=b.toml") == ArmSpec(
        "agentcg=policies/a=b.toml", "agentcg", "policies/a=b.toml"
    )


@pytest.mark.parametrize("text", ["", "None", "agentcg=", "none=x", "static=1G", "=x", "high_only", " none"])
def test_what_is_no_arm_is_refused(text):
    with pytest.raises(InvalidInput, match=r"--arm: there is no arm") as caught:
        parse_arm(text)
    assert "none, static, high-only, psi-loop, agentcg, and agentcg=POLICY" in caught.value.hint
