# SPDX-License-Identifier: Apache-2.0
"""Medians and their intervals."""

import pytest

from agentcg import statistics


def test_median_and_interval_of_one_sample_is_that_sample():
    assert statistics.median_of([7.0]) == (7.0, 7.0, 7.0)


def test_interval_of_a_median_has_the_coverage_it_claims():
    # A resample's median is at most the k-th of n = 9 values with P(Binomial(9, k/9) >= 5): 3.0 % for k = 2.
    assert statistics.median_of([1, 2, 3, 4, 5, 6, 7, 8, 9]) == (5, 2, 8)


def test_interval_is_the_same_every_time_and_contains_the_median():
    values = [float(number * number % 101) for number in range(60)]
    first = statistics.median_of(values)
    assert first == statistics.median_of(values)
    assert first.lo < first.value < first.hi


def test_quotient_draws_whole_rounds():
    # Rounds differ by three orders of magnitude, the quotient within each does not.
    below = [1.0, 10.0, 100.0, 1000.0, 5.0, 50.0, 500.0]
    assert statistics.median_quotient([3 * value for value in below], below) == (3.0, 3.0, 3.0)


def test_difference_is_the_median_of_paired_differences():
    # The difference of the medians would be 4.
    assert statistics.median_difference([10.0, 6.0, 1.0], [2.0, 5.0, 0.0]).value == 1.0


def test_share_removed_is_of_what_there_is_to_remove():
    assert statistics.share_removed([12.0] * 3, [20.0] * 3, [10.0] * 3) == (0.8, 0.8, 0.8)
    assert statistics.share_removed([12.0], [10.0], [10.0]) is None


def test_share_removed_leaves_out_resamples_that_say_nothing():
    found = statistics.share_removed([11.0, 11.0, 11.0], [10.0, 20.0, 20.0], [10.0, 10.0, 10.0])
    assert found == (0.9, 0.9, 0.9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: statistics.median_of([]), "no samples"),
        (lambda: statistics.median_quotient([1.0, 2.0], [1.0]), "2 and 1 samples"),
        (lambda: statistics.median_difference([1.0], []), "1 and 0 samples"),
        (lambda: statistics.median_quotient([1.0], [0.0]), "positive"),
    ],
)
def test_statistics_of_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
