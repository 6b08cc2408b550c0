#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# An agent that builds C programs: looks around, builds all with make, several compilers at a time, as debug build and
# as optimised one, and checks the types of a Python package.
set -u
call() { "${AGENTCG_EXEC:-agentcg/bin/agentcg-exec}" --tool Bash -- "$@" >/dev/null 2>&1; }
think() { sleep "$1"; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

think 2
call find agentcg/launcher agentcg/replay/load -name '*.[ch]'
call grep -n '#include' -r agentcg/launcher
think 2
call make -j4 -f workloads/build.mk OUT="$out/debug" CFLAGS="-O0 -g"
think 2
call clang --version
call make -j4 -f workloads/build.mk OUT="$out/release" CFLAGS="-O2 -g"
think 2
call python -m mypy --no-incremental agentcg/units.py agentcg/verdict.py
think 2
call ls -l "$out/release"
call make -j4 -f workloads/build.mk OUT="$out/debug" CFLAGS="-O0 -g"
think 2
