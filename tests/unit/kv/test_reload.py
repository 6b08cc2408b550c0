# SPDX-License-Identifier: Apache-2.0
"""What it takes to have a context back."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentcg.errors import InvalidInput
from agentcg.kv.reload import Prefill, Transfer, fit_prefill


def test_prefill_and_transfer_by_hand() -> None:
    # 30 000 tokens: 9e8 x 1e-9 = 0.9 s of attention, 3 s of the rest, 0.1 s whatever there is.
    assert Prefill(1e-9, 1e-4, 0.1).sec(30_000) == pytest.approx(4.0)
    # 128 KiB a token: 1000 tokens are 131 MB, a hundredth of what 13.1 GB/s move in a second.
    assert Transfer(131_072, 13_107_200_000).sec(1000) == pytest.approx(0.01)


def test_nothing_takes_no_time() -> None:
    assert Prefill(1e-9, 1e-4, 0.1).sec(0) == Prefill(1e-9, 1e-4, 0.1).sec(-1) == Transfer(1, 1.0).sec(0) == 0
    assert Prefill(0.0, 1e-4, -1.0).sec(10) == 0


@given(some.floats(0, 1e-8), some.floats(1e-6, 1e-3), some.floats(0, 1))
def test_a_fit_finds_what_the_samples_were_made_of(quadratic: float, linear: float, constant: float) -> None:
    known = Prefill(quadratic, linear, constant)
    lengths = (1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 131_072)
    found = fit_prefill([(tokens, known.sec(tokens)) for tokens in lengths])
    for tokens in (1000, 5000, 50_000, 131_072):
        assert found.sec(tokens) == pytest.approx(known.sec(tokens), rel=1e-6, abs=1e-9)


def test_a_fit_to_noise_is_the_least_squares_one() -> None:
    samples = [(1000, 1.0), (2000, 3.0), (3000, 4.0), (4000, 8.0)]
    found = fit_prefill(samples)

    def loss(a: float, b: float, c: float) -> float:
        return sum((a * n * n + b * n + c - sec) ** 2 for n, sec in samples)

    best = loss(found.quadratic, found.linear, found.constant)
    for a, b, c in ((1e-8, 0, 0), (-1e-8, 0, 0), (0, 1e-5, 0), (0, -1e-5, 0), (0, 0, 0.01), (0, 0, -0.01)):
        assert loss(found.quadratic + a, found.linear + b, found.constant + c) > best
    assert all(found.sec(low) < found.sec(high) for low, high in pairwise((1000, 2000, 3000, 4000)))


def test_two_lengths_are_no_quadratic() -> None:
    with pytest.raises(InvalidInput, match="three lengths"):
        fit_prefill([(1000, 1.0), (2000, 2.0), (1000, 1.1)])
