# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Return what runs a story, in less than a minute."""
    return lambda story: asyncio.run(asyncio.wait_for(story, 60))
