# SPDX-License-Identifier: Apache-2.0
"""Tests that need a kernel that can enforce run in the machine of `scripts/vm test` and are not collected elsewhere."""

import os

collect_ignore = [] if os.environ.get("AGENTCG_VM") else ["kernel"]
