# SPDX-License-Identifier: Apache-2.0
"""How many samples are kept of an arm, and from when."""

from itertools import pairwise

from agentcg.replay.events import Sample
from agentcg.replay.sampler import Samples


def test_samples_cover_all_of_a_long_arm_evenly():
    samples, now = Samples(), 0.0
    while now < 900.0:
        samples.add(Sample(round(now, 6), {}, {}, 0))
        now += samples.period_sec
    assert 300 <= len(samples.kept) <= 600
    assert samples.kept[0].t == 0.0
    steps = {round(after.t - before.t, 3) for before, after in pairwise(samples.kept)}
    assert steps == {samples.period_sec} == {1.6}


def test_samples_that_come_too_often_are_thinned():
    samples = Samples()
    for number in range(2000):
        samples.add(Sample(number / 10, {}, {}, 0))
    assert {round(after.t - before.t, 3) for before, after in pairwise(samples.kept)} == {samples.period_sec} == {0.4}
    assert (samples.kept[0].t, samples.kept[-1].t) == (0.0, 199.6)


def test_a_short_arm_keeps_every_sample():
    samples = Samples()
    for number in range(600):
        samples.add(Sample(number / 10, {}, {}, 0))
    assert (len(samples.kept), samples.period_sec) == (600, 0.1)
