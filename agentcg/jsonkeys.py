# SPDX-License-Identifier: Apache-2.0
"""JSON for others: the names of its keys."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["camel_keys"]


def camel_keys(value: Any) -> Any:
    """Return the value with its keys under the names that the socket uses: ``memory_peak`` is ``memoryPeak``."""
    if isinstance(value, dict):
        return {
            re.sub("_([a-z0-9])", lambda match: match[1].upper(), key): camel_keys(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [camel_keys(item) for item in value]
    return value
