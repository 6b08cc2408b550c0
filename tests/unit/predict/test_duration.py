# SPDX-License-Identifier: Apache-2.0
"""The predictor: what it says of nothing, of little and of much, and how much it keeps."""

from random import Random

import pytest

from agentcg.predict import duration
from agentcg.predict.duration import Predictor

PYTEST = ("Bash", "pytest", "u0/one")


def test_of_nothing_the_prior_is_said() -> None:
    found = Predictor().remaining(PYTEST)
    assert (found.values, found.tail_share, found.mean()) == ((), 1.0, 1.0)
    assert Predictor().memory_peak(PYTEST).mean() == 64 << 20
    assert Predictor().remaining(PYTEST, 9.0).mean() == 10


def test_one_call_counts_at_every_level() -> None:
    predictor = Predictor()
    predictor.observe(PYTEST, 5.0, 1000)
    # Three levels with 1/5 of what is left each, then 1/2 of the rest for all calls: 1 - 0.8³ / 2.
    same = predictor.remaining(PYTEST)
    assert same.values == (5.0,)
    assert same.shares[0] == pytest.approx(1 - 0.8**3 / 2)
    # Another session, other words, another tool know ever less of it.
    shares = [
        predictor.remaining(path).shares[0]
        for path in (("Bash", "pytest", "u0/two"), ("Bash", "make", "u0/two"), ("Read", "x.py", "u0/two"))
    ]
    assert shares == pytest.approx([1 - 0.8**2 / 2, 1 - 0.8 / 2, 1 / 2])
    assert predictor.memory_peak(PYTEST).values == (1000.0,)


def test_what_is_known_best_counts_most() -> None:
    predictor = Predictor()
    for _ in range(96):
        predictor.observe(("Bash", "ls", "u0/one"), 0.01)
        predictor.observe(("Bash", "pytest", "u0/one"), 30.0)
    assert predictor.remaining(("Bash", "pytest", "u0/one")).quantile(0.1) == 30
    assert predictor.remaining(("Bash", "ls", "u0/one")).quantile(0.9) == 0.01


def test_a_level_counts_by_how_many_of_its_calls_got_as_far() -> None:
    predictor = Predictor()
    for number in range(60):
        predictor.observe(("Bash", "pytest", f"u0/{number}"), 100.0)
    for _ in range(60):
        predictor.observe(PYTEST, 1.0)
    assert predictor.remaining(PYTEST).quantile(0.5) == 1
    # The only thing that is known of a pytest in its second second is what others did.
    later = predictor.remaining(PYTEST, 2.0)
    assert later.values == (98.0,)
    assert later.quantile(0.5) == 98


def test_a_call_that_outlives_all_others_is_expected_to_go_on_as_long_again() -> None:
    predictor = Predictor()
    for _ in range(50):
        predictor.observe(PYTEST, 3.0)
    assert predictor.remaining(PYTEST, 10.0).mean() == 11


def test_a_call_that_came_to_nothing_counts_before_it_began() -> None:
    predictor = Predictor()
    predictor.observe(PYTEST, 0.0, 0)
    assert predictor.remaining(PYTEST).values == (0.0,)
    assert predictor.memory_peak(PYTEST).values == (0.0,)
    assert predictor.remaining(PYTEST, 0.1).values == ()


def test_a_clock_that_ran_backwards_is_a_call_that_begins() -> None:
    predictor = Predictor()
    predictor.observe(PYTEST, 3.0)
    assert predictor.remaining(PYTEST, -4.0) == predictor.remaining(PYTEST)


def test_a_peak_that_is_not_known_is_not_learned() -> None:
    predictor = Predictor()
    predictor.observe(PYTEST, 3.0)
    assert predictor.memory_peak(PYTEST).values == ()


def test_only_the_last_calls_of_a_path_are_kept() -> None:
    predictor = Predictor()
    for number in range(1000):
        predictor.observe(PYTEST, float(number), number)
    assert predictor.remaining(PYTEST).values == tuple(float(number) for number in range(872, 1000))
    assert len(predictor.memory_peak(PYTEST).values) == 128


def test_only_the_paths_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "_PATHS", 6)
    predictor = Predictor()
    for name in "abc":
        predictor.observe(("Bash", name, name), 1.0)
        predictor.remaining(("Bash", "a", "a"))  # Being asked for is use.
    assert len(predictor._past) == 6
    assert ("Bash", "a", "a") in predictor._past
    assert ("Bash", "b") not in predictor._past


def test_memory_stays_bounded_whatever_comes() -> None:
    predictor, draw = Predictor(), Random(1)
    for number in range(10_000):
        predictor.observe((str(draw.randrange(9)), str(number), str(number % 77)), draw.random(), number)
    assert len(predictor._past) == 4096
    assert max(len(past.durations) for past in predictor._past.values()) == 128
