# SPDX-License-Identifier: Apache-2.0
"""What the sessions of a replay live under, as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from agentcg.errors import InvalidInput

__all__ = ["ArmKind", "ArmSpec", "parse_arm", "title_of"]

ArmKind = Literal["none", "static", "high-only", "psi-loop", "agentcg"]
"""``none``: one limit for all, and nothing else. ``static``: memory.max, an equal part for each. ``high-only``:
memory.high on those that are not protected. ``psi-loop``: a loop in user space that freezes them."""


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """One arm of a replay."""

    name: str
    """As it was given, and is shown: ``none``, ``agentcg``, ``agentcg=policies/x.toml``."""
    kind: ArmKind
    policy: str = "default"
    """Of ``agentcg``: a preset's name or a path."""


def parse_arm(text: str, place: str = "--arm") -> ArmSpec:
    """Return the arm that ``text`` names. :raises InvalidInput: if there is none"""
    kind, equals, policy = text.partition("=")
    for known in get_args(ArmKind):
        if kind == known and not equals:
            return ArmSpec(text, known)
    if kind == "agentcg" and policy:
        return ArmSpec(text, "agentcg", policy)
    hint = f"there are {', '.join(get_args(ArmKind))}, and agentcg=POLICY"
    raise InvalidInput(place, f"there is no arm {text[:80]!r}", hint=hint)


def title_of(name: str) -> str:
    """Return an arm's name as people read it."""
    return {"none": "without agentcg", "agentcg": "with agentcg"}.get(name, name)
