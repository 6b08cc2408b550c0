#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# An agent that sets up a project: makes a virtual environment, installs wheels into it without network, and tries it.
# WHEELS is a folder of wheels, made before by wheels.py.
set -u
call() { "${AGENTCG_EXEC:-agentcg/bin/agentcg-exec}" --tool Bash -- "$@" >/dev/null 2>&1; }
think() { sleep "$1"; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

think 2
call cat pyproject.toml
call ls -l "$WHEELS"
think 2
call python3 -m venv "$dir/venv"
think 2
call "$dir/venv/bin/pip" install --no-index --find-links "$WHEELS" --no-cache-dir pygments
think 2
call "$dir/venv/bin/python" -c 'import pygments.lexers; list(pygments.lexers.get_all_lexers())'
call "$dir/venv/bin/pip" install --no-index --find-links "$WHEELS" --no-cache-dir mypy
think 2
call "$dir/venv/bin/python" -m mypy --version
call "$dir/venv/bin/pip" list
think 2
