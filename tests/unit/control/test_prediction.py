# SPDX-License-Identifier: Apache-2.0
"""What is left of a call, by its progress. A call like it took 100 s, often enough to be sure."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentcg.control.prediction import LATEST_SEC, SOONEST_SEC, Prediction
from agentcg.control.registry import Registry
from agentcg.model import SessionRef
from agentcg.predict.duration import Predictor
from agentcg.predict.learn import call_path

PATH = "shared/u0/s1/calls/c1"


@pytest.fixture
def with_call(new_registry: Callable[..., Registry]):  # type: ignore[no-untyped-def]
    """Return a function that runs a check with a call that begins at 1000, and a predictor."""

    def run(check: Callable[[Any, Predictor], None], usual_sec: float = 100.0) -> None:
        async def main() -> None:
            registry = new_registry()
            session, _ = registry.open_session(SessionRef("u0", "s1"), tenant="u0", owner_uid=0)
            live, _ = registry.begin(session, owner_uid=0, name="c1", tool="Bash", command="make")
            live.started = 1000.0
            predictor = Predictor()
            for _ in range(128):
                predictor.observe(call_path("Bash", "make", "u0/s1"), usual_sec)
            check(live, predictor)

        asyncio.run(main())

    return run


def test_what_has_passed_is_not_left(with_call) -> None:  # type: ignore[no-untyped-def]
    def check(live: Any, predictor: Predictor) -> None:
        made = Prediction(live, 1000.0)
        assert made.make(predictor, 1000.0).p50_sec == 100
        assert made.mean(1030.0) == pytest.approx(70, abs=1)
        assert made.make(predictor, 1030.0).p50_sec == 70
        assert made.make(predictor, 1100.5).p50_sec > 10  # It is overdue: on for about as long again.

    with_call(check)


def test_frozen_time_is_no_progress(with_call) -> None:  # type: ignore[no-untyped-def]
    def check(live: Any, predictor: Predictor) -> None:
        made = Prediction(live, 1000.0)
        made.make(predictor, 1000.0)
        live.still.begin(1010.0)
        assert made.make(predictor, 1050.0).p50_sec == 90
        assert made.mean(1090.0) == pytest.approx(90, abs=1)

    with_call(check)


def test_nor_is_time_in_which_all_others_make_way(with_call) -> None:  # type: ignore[no-untyped-def]
    def check(live: Any, predictor: Predictor) -> None:
        made = Prediction(live, 1000.0)
        made.make(predictor, 1000.0)
        for begun in range(1000, 1040, 2):
            live.session.pauses.begin(begun)
            live.session.pauses.end(begun + 1.0)
        assert made.mean(1040.0) == pytest.approx(80, abs=1)
        assert made.make(predictor, 1040.0).p50_sec == 80

    with_call(check)


def test_a_throttled_call_is_expected_back_later(with_call, cgroups) -> None:  # type: ignore[no-untyped-def]
    def check(live: Any, predictor: Predictor) -> None:
        made = Prediction(live, 1000.0)
        made.make(predictor, 1000.0)
        cgroups.set(PATH, "cpu.stat", "usage_usec 10000000\nthrottled_usec 10000000\n")
        assert made.make(predictor, 1020.0).p50_sec == pytest.approx(180)  # 10 of 100 s in 20 s.

    with_call(check)


@pytest.mark.parametrize(("usual", "after"), [(0.1, SOONEST_SEC), (6.0, 3.0), (100.0, LATEST_SEC)])
def test_it_is_due_after_half_of_its_median_within_bounds(with_call, usual: float, after: float) -> None:  # type: ignore[no-untyped-def]
    def check(live: Any, predictor: Predictor) -> None:
        made = Prediction(live, 1000.0)
        made.make(predictor, 1000.0)
        assert made.due == 1000 + after

    with_call(check, usual)


def test_a_call_that_was_not_predicted_yet_has_nothing_left(with_call) -> None:  # type: ignore[no-untyped-def]
    def check(live: Any, predictor: Predictor) -> None:
        assert Prediction(live, 1000.0).mean(1001.0) == 0

    with_call(check)
