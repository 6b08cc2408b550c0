# SPDX-License-Identifier: Apache-2.0
"""What a prefill costs, learned from those that were seen."""

import pytest

from agentcg.kv.engines.prefill import MeasuredPrefill


def test_it_is_guessed_until_one_was_seen() -> None:
    assert MeasuredPrefill().sec(10_000) == 1.0


def test_it_is_what_the_last_ones_took() -> None:
    prefill = MeasuredPrefill()
    prefill.observe(1000, 1.0)
    prefill.observe(3000, 7.0)
    assert prefill.sec(500) == pytest.approx(1.0)
    assert prefill.sec(-5) == 0
    for _ in range(64):
        prefill.observe(1000, 4.0)
    assert prefill.sec(500) == pytest.approx(2.0)


def test_short_ones_and_clocks_that_run_backwards_teach_nothing() -> None:
    prefill = MeasuredPrefill()
    prefill.observe(255, 100.0)
    prefill.observe(1000, 0.0)
    prefill.observe(1000, -5.0)
    assert prefill.sec(1) == 1e-4
