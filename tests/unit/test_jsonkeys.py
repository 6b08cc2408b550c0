# SPDX-License-Identifier: Apache-2.0
"""The names of JSON keys."""

from agentcg.jsonkeys import camel_keys, snake_keys


def test_keys_at_any_depth_are_renamed_and_values_are_not():
    value = {"memory_peak": 1, "tools": [{"tool_name": "execute_bash", "under_100_ms": (0.5, None)}]}
    assert camel_keys(value) == {"memoryPeak": 1, "tools": [{"toolName": "execute_bash", "under100Ms": [0.5, None]}]}


def test_names_come_back():
    value = {"p50_ms": 1, "sessions": [{"oom_kills_call": 2, "name": "aB"}]}
    assert snake_keys(camel_keys(value)) == value
