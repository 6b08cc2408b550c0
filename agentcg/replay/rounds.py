# SPDX-License-Identifier: Apache-2.0
"""The order in which the arms of a run take their turns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from agentcg.replay.arm_spec import ArmSpec

__all__ = ["Progress", "round_of", "turns"]

Progress: TypeAlias = Callable[[str, float], None]
"""Told what is going on, and how far it has come, from 0 to 1."""


def turns(arms: Sequence[ArmSpec], rounds: int, seed: int) -> list[tuple[int, ArmSpec]]:
    """Return the number of the round and the arm of each turn.

    In each round every arm has one, in an order of its own that is drawn: what changes on the machine with time changes
    for all of them. A single round keeps the order of ``arms``.
    """
    if rounds == 1:
        return [(0, arm) for arm in arms]
    draw = random.Random(seed)  # noqa: S311  no secret is made of it
    return [(number, arm) for number in range(rounds) for arm in draw.sample(arms, len(arms))]


def round_of(number: int, rounds: int) -> str:
    """Return which round it is, from 0, as it stands before what goes on in it."""
    return f"round {number + 1} of {rounds}, " if rounds > 1 else ""
