# SPDX-License-Identifier: Apache-2.0
"""The recordings that the isolation bench replays, and the plans of their sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentcg.replay.load import load_path
from agentcg.replay.plan import SessionPlan, make_plan, protect
from agentcg.trace.agentcgroup import import_attempt
from agentcg.trace.format import read, write
from benches.place import CHECKOUT, recordings

__all__ = ["FIRST", "MB", "TRIPLES", "Triple", "import_recordings", "limit_of", "load_plans"]

MB = 1_000_000
"""The unit of the recordings, and so of everything here."""
AGENT_MEMORY = 100 * MB
PRESSURE = 1100 / 1232
"""Of the first triple: 1100 MB over the sum of its peaks, agents included."""
SET = "all_images_haiku"
IMPORTED = CHECKOUT / "build/traces"


@dataclass(frozen=True)
class Triple:
    """A protected session and one that runs twice beside it, by their tasks in the set."""

    protected: str
    other: str
    speed: float = 10.0
    """So that the longer one takes some 10 s, or more: above 20 it is the machine that is measured."""


FIRST = Triple("dask__dask-11628", "sigmavirus24__github3.py-673")
TRIPLES = (
    Triple("getsentry__sentry-python-2148", "joke2k__faker-1520", 20),
    Triple("joke2k__faker-2151", "libp2p__py-libp2p-533", 16),
    Triple("numba__numba-9636", "pre-commit__pre-commit-mirror-maker-64", 20),
    Triple("prefab-cloud__prefab-cloud-python-62", "spacetelescope__poppy-411", 20),
)
"""All others of the set whose first attempt has a peak of 250 to 460 MiB, in alphabetical order, two by two."""


def _file(task: str) -> Path:
    return IMPORTED / f"{SET}-{task}-attempt_1.jsonl"


def import_recordings() -> None:
    """Import what is missing, from $AGENTCG_TRACES, into the checkout, which is all that the VM sees; build the load.

    :raises InvalidInput: if the recordings cannot be found
    """
    load_path()
    for triple in (FIRST, *TRIPLES):
        for task in (triple.protected, triple.other):
            if _file(task).exists():
                continue
            attempt = recordings(SET, task, "attempt_1")
            IMPORTED.mkdir(parents=True, exist_ok=True)
            write(import_attempt(attempt), _file(task))


def load_plans(triple: Triple, others: int = 2) -> list[SessionPlan]:
    """Return the plans of the protected session, ``high``, and of ``others`` others, ``other-1`` and so on."""
    high = protect(make_plan(read(_file(triple.protected)), "high", agent_memory=AGENT_MEMORY), None)
    beside = read(_file(triple.other))
    return [high, *(make_plan(beside, f"other-{number + 1}", agent_memory=AGENT_MEMORY) for number in range(others))]


def limit_of(plans: Sequence[SessionPlan]) -> int:
    """Return the memory, in bytes, that is as scarce for these sessions as 1100 MB are for the first triple."""
    return round(sum(plan.peak for plan in plans) * PRESSURE)
