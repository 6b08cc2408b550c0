# SPDX-License-Identifier: Apache-2.0
import pytest

from agentcg.api.types import KvEvent, KvForecast
from agentcg.kv.engines.signals import call_event, remaining


def test_a_forecast_becomes_a_distribution_with_its_quantiles_and_its_mean() -> None:
    left = remaining(KvForecast(p10Sec=1.0, p50Sec=4.0, p90Sec=20.0, meanSec=9.0))
    assert left.quantile(0.1) == pytest.approx(1.0)
    assert left.quantile(0.5) == pytest.approx(4.0)
    assert left.quantile(0.9) >= 20.0
    assert left.mean() == pytest.approx(9.0)


@pytest.mark.parametrize("given", [(0.0, 0.0, 0.0, 0.0), (5.0, 2.0, 1.0, 0.5), (0.0, 0.0, 86400.0, 86400.0)])
def test_a_forecast_that_makes_no_sense_is_a_distribution_all_the_same(given: tuple[float, ...]) -> None:
    left = remaining(KvForecast(*given))
    assert left.values == tuple(sorted(left.values))
    assert sum(left.shares) + left.tail_share == pytest.approx(1.0)
    assert left.tail_scale >= 1.0
    assert 0.0 <= left.survival(10.0) <= 1.0


def test_what_an_event_says_of_a_call() -> None:
    found = call_event(KvEvent("frozen", "u0/a", "u0/a/c"))
    assert found is not None
    assert (found.call, found.kind, found.remaining) == ("u0/a/c", "frozen", None)
    began = call_event(KvEvent("began", "u0/a", "u0/a/c", KvForecast(1.0, 2.0, 3.0, 2.0)))
    assert began is not None
    assert began.remaining is not None
    for other in (KvEvent("closed", "u0/a"), KvEvent("lost", missed=3), KvEvent("unheard of", "u0/a", "u0/a/c")):
        assert call_event(other) is None
