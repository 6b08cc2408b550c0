# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator

import pytest

from agentcg.replay.plan import SessionPlan, make_plan
from agentcg.trace.model import RecordedCall, RecordedTurn, Recording, Sample
from tests.unit.replay.served.llm import Llm, serve

MB = 1_000_000


@pytest.fixture
def llm() -> Iterator[Llm]:
    with serve() as server:
        yield server


@pytest.fixture
def plan() -> Callable[..., SessionPlan]:
    """Return what makes a session of 4 s: turns of 100, 160 and 200 tokens, and a call behind each of the first two."""

    def make(name: str, times: int = 1) -> SessionPlan:
        calls = (RecordedCall("c1", "Bash", "ls", 1.0, 1.5), RecordedCall("c2", "Bash", "pytest", 2.5, 3.0))
        samples = tuple(Sample(at, size * MB, 0) for at, size in ((0, 2), (2, 2), (3, 5), (4, 2)))
        asked = ((0.5, 1.0, 100, 4), (1.5, 2.5, 160, 3), (3.0, 3.9, 200, 2))
        turns = tuple(RecordedTurn(start, end, times * prompt, times * output) for start, end, prompt, output in asked)
        return make_plan(Recording(name, 0.0, calls, samples, turns=turns), name)

    return make
