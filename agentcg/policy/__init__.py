# SPDX-License-Identifier: Apache-2.0
"""From what an agent declares to what the kernel enforces: TOML in, limits out, pure functions."""

from agentcg.policy.budget import budget_for
from agentcg.policy.decide import Decision, decide
from agentcg.policy.hint import parse_hint
from agentcg.policy.intent import merge
from agentcg.policy.load import load, presets
from agentcg.policy.match import classify, command_key
from agentcg.policy.schema import Policy

__all__ = ["Decision", "Policy", "budget_for", "classify", "command_key", "decide", "load", "merge"]
__all__ += ["parse_hint", "presets"]
