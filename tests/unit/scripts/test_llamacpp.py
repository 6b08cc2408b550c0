# SPDX-License-Identifier: Apache-2.0
"""The benches of the gateway and of llama.cpp's slots, with a model of random numbers."""

from pathlib import Path

import pytest
from benches import gateway, kv_llamacpp
from benches.harness import Stage


@pytest.mark.parametrize("arm", gateway.ARMS)
def test_a_chat_is_timed(arm: str) -> None:
    with Stage() as stage:
        found = gateway._prepare(arm, "short", stage)()
    assert 0 < found["first_byte_ms"] <= found["total_ms"]


@pytest.mark.parametrize("arm", ["lru", "soft_pins_saved"])
def test_six_agents_on_three_slots(arm: str, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = kv_llamacpp._Call("pytest", 1.5)
    monkeypatch.setattr(kv_llamacpp, "find_model", lambda: random_model)
    monkeypatch.setattr(kv_llamacpp, "_calls", lambda: ((call,) * kv_llamacpp.TURNS,) * kv_llamacpp.AGENTS)
    monkeypatch.setattr(kv_llamacpp, "_daemon", lambda stage, own: stage.shared.setdefault("note", ""))
    monkeypatch.setattr(kv_llamacpp, "PROMPT_WORDS", 60)
    monkeypatch.setattr(kv_llamacpp, "RESULT_WORDS", 10)
    with Stage() as stage:
        found = kv_llamacpp._play(arm, stage)
    assert 0 < found["turn_sec"] < found["session_sec"]
    computed, again = found["prefilled_tokens"], found["prefilled_again_tokens"]
    assert computed is not None
    assert again is not None
    assert 0 <= again < computed
    if arm == "lru":  # Six take turns on three slots: whoever is back finds another there.
        assert again > computed / 4
