#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# An agent that looks at a test suite and runs it: one file, two parts side by side, then a name that is not there.
set -u
call() { "${AGENTCG_EXEC:-agentcg/bin/agentcg-exec}" --tool Bash -- "$@" >/dev/null 2>&1; }
pytest() { call python -m pytest -q -p no:cacheprovider "$@"; }
think() { sleep "$1"; }

think 2
call ls -R tests/unit
call grep -rn "def test_" tests/unit
think 3
pytest tests/unit/policy/test_budget.py
think 3
pytest tests/unit/cli tests/unit/test_verdict.py &
pytest tests/unit/replay/test_plan.py tests/unit/replay/test_replay_result.py tests/unit/cgroup &
wait
think 3
call sed -n 1,80p tests/unit/cgroup/test_tree.py
pytest tests/unit/cgroup -k no_such_test
think 2
