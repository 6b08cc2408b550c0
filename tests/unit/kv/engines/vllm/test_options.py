# SPDX-License-Identifier: Apache-2.0
"""The plug-in's options."""

import os

import pytest

from agentcg.errors import InvalidInput
from agentcg.kv.engines.vllm.options import Options


def test_what_is_there_without_any() -> None:
    assert Options.read({"PATH": "/bin"}) == Options("soft_pins", 600.0, f"vllm-{os.getpid()}")


def test_all_of_them() -> None:
    given = {"AGENTCG_VLLM_POLICY": "fixed_ttl", "AGENTCG_VLLM_PIN_MAX_SEC": "30", "AGENTCG_VLLM_ENGINE": "gpu0"}
    assert Options.read(given) == Options("fixed_ttl", 30.0, "gpu0")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("POLICY", "clairvoyant", "there is no policy"),
        ("POLICY", "", "there is no policy"),
        ("PIN_MAX_SEC", "long", "no number of seconds"),
        ("PIN_MAX_SEC", "nan", "not above 0"),
        ("PIN_MAX_SEC", "0", "not above 0"),
        ("PINMAXSEC", "5", "there is no such option"),
    ],
)
def test_what_is_wrong_is_named(name, value, message) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        Options.read({f"AGENTCG_VLLM_{name}": value})
    assert caught.value.place == f"AGENTCG_VLLM_{name}"
