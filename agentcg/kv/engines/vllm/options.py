# SPDX-License-Identifier: Apache-2.0
"""The plug-in's options: environment variables of the server's process.

Not ``--additional-config``: what stands there goes into the key of vLLM's cache of compiled models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from agentcg.errors import InvalidInput
from agentcg.kv.policies import POLICIES

__all__ = ["Options"]

_PREFIX = "AGENTCG_VLLM_"
_DEFAULTS = {"POLICY": "soft_pins", "PIN_MAX_SEC": "600", "ENGINE": ""}


@dataclass(frozen=True, slots=True)
class Options:
    """How the scheduler is to work."""

    policy: str = "soft_pins"
    pin_max_sec: float = 600.0
    """A pin ends when its session has paused for so long."""
    engine: str = ""
    """The name to speak to the daemon under; vllm and the process id if left out."""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Options:
        """Read the environment.

        :raises InvalidInput: naming the variable that is wrong
        """
        given = {name.removeprefix(_PREFIX): value for name, value in environment.items() if name.startswith(_PREFIX)}
        for name in given.keys() - _DEFAULTS.keys():
            known = ", ".join(_PREFIX + known for known in _DEFAULTS)
            raise InvalidInput(_PREFIX + name, "there is no such option", hint=f"there are {known}")
        values = _DEFAULTS | given
        # No engine knows when a session will be back.
        if (policy := values["POLICY"]) not in POLICIES.keys() - {"clairvoyant"}:
            known = ", ".join(name for name in POLICIES if name != "clairvoyant")
            raise InvalidInput(_PREFIX + "POLICY", f"there is no policy {policy!r}", hint=f"there are {known}")
        place = _PREFIX + "PIN_MAX_SEC"
        try:
            pin_max_sec = float(values["PIN_MAX_SEC"])
        except ValueError:
            raise InvalidInput(place, f"{values['PIN_MAX_SEC']!r} is no number of seconds") from None
        if not (isfinite(pin_max_sec) and pin_max_sec > 0):
            raise InvalidInput(place, f"{values['PIN_MAX_SEC']} is not above 0 and finite")
        return cls(policy, pin_max_sec, values["ENGINE"] or f"vllm-{os.getpid()}")
