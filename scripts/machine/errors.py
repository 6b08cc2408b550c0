# SPDX-License-Identifier: Apache-2.0
"""The one exception of the test machine, and the lines that say what it is doing."""

import sys
from collections.abc import Sequence

__all__ = ["MachineError", "say"]


class MachineError(Exception):
    """Something that stops the test machine, with what to do about it."""

    def __init__(self, message: str, fix: str, log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.log = list(log)

    def __str__(self) -> str:
        return "\n".join([*self.log, f"vm: {self.message}", f"vm: {self.fix}"])


def say(text: str) -> None:
    """Write one progress line to stderr, where it cannot mix with the guest's output."""
    print(f"vm: {text}", file=sys.stderr, flush=True)
