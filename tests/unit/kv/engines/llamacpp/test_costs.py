# SPDX-License-Identifier: Apache-2.0
import pytest

from agentcg.kv.engines.llamacpp.costs import Costs


def learned() -> Costs:
    costs = Costs()
    costs.computed(1000, 4.0)
    costs.saved(1000, 2_000_000, 0.02)
    costs.restored(1000, 0.01)
    return costs


def test_the_cheaper_way_counts() -> None:
    costs = learned()
    assert costs.sec(500) == pytest.approx(0.015)
    assert costs.saving_pays(500)
    costs.saves = False
    assert costs.sec(500) == pytest.approx(2.0)
    assert not costs.saving_pays(500)


def test_a_server_that_computes_faster_than_it_copies_saves_nothing() -> None:
    costs = Costs()
    costs.computed(1000, 0.01)
    assert costs.saving_pays(1000)  # Nothing is known of copies: it is tried.
    costs.saved(1000, 1, 0.5)
    assert not costs.saving_pays(1000)
    assert costs.sec(1000) == pytest.approx(0.01)


def test_the_newest_value_counts_for_three_tenths() -> None:
    costs = Costs()
    costs.saves = False
    costs.computed(100, 1.0)
    costs.computed(100, 2.0)
    assert costs.sec(100) == pytest.approx(1.3)


@pytest.mark.parametrize("sec", [float("nan"), float("inf"), -1.0])
def test_what_cannot_be_is_not_learned(sec: float) -> None:
    costs = learned()
    costs.computed(1000, sec)
    costs.restored(1000, sec)
    costs.saved(1000, -5, sec)
    assert costs.sec(1000) == pytest.approx(0.03)
    assert costs.bytes_per_token == 2000


def test_a_few_tokens_say_nothing() -> None:
    costs = learned()
    costs.computed(1, 60.0)
    costs.computed(-7, 60.0)
    costs.saves = False
    assert costs.sec(1000) == pytest.approx(4.0)
    assert not learned().saving_pays(3)


def test_before_anything_was_measured_keeping_is_worth_something() -> None:
    assert Costs().sec(1000) == pytest.approx(1.0)
    assert Costs().sec(-1) == 0.0
