# SPDX-License-Identifier: Apache-2.0
"""JSON for others: the names of its keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["camel_keys", "snake_keys"]


def camel_keys(value: Any) -> Any:
    """Return the value with its keys under the names that the socket uses: ``memory_peak`` is ``memoryPeak``."""
    return _renamed(value, lambda key: re.sub("_([a-z0-9])", lambda match: match[1].upper(), key))


def snake_keys(value: Any) -> Any:
    """Return the value with its keys as we name them: ``memoryPeak`` is ``memory_peak``."""
    return _renamed(value, lambda key: re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", key))


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {rename(key): _renamed(item, rename) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renamed(item, rename) for item in value]
    return value
