# SPDX-License-Identifier: Apache-2.0
"""Which tests of runtimes are long: all of the large ones but whether a model reads what is advised."""

from pathlib import Path

import pytest

_LARGE = {"test_inspect_ai.py", "test_mcp.py", "test_swe_rex.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.fspath).name in _LARGE and not item.name.startswith("test_the_model_reads_why_its_c"):
            item.add_marker(pytest.mark.long)
