# SPDX-License-Identifier: Apache-2.0
"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from agentcg.errors import AgentcgError
from benches import place, report
from benches.harness import Bench, Measured, Part, Plan, measure

__all__ = ["BENCHES", "find", "main", "parse"]

BENCHES = ("calls",)
RESULTS = place.CHECKOUT / "bench/results"
RUNS = place.CHECKOUT / "bench/runs"
FULL_SEC = 1500.0
"""The longest that a part of a full run measures."""
SETUP_SEC = 420.0


def find(name: str) -> Bench:
    """Return the bench ``name``, one of :data:`BENCHES`."""
    bench: Bench = importlib.import_module(f"benches.{name}").BENCH
    return bench


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Compare arms, interleaved in one run.")
    parser.add_argument("name", nargs="?", metavar="NAME", choices=BENCHES, help="the bench: see --list")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--quick", action="store_true", help="measure for less than a minute")
    parser.add_argument("--n", type=_count, metavar="N", help="rounds; by default what the bench says")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results/NAME.json")
    # How a bench calls itself in the VM: measure one part, write what came of it to a file.
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.list and options.name is None:
        parser.error("name a bench: see --list")
    if options.save and options.quick:
        parser.error("--save keeps full results only: leave out --quick")
    if (options.part is None) != (options.raw is None):
        parser.error("--part and --raw go together")
    return options


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _plan(bench: Bench, part: Part, options: argparse.Namespace) -> Plan:
    if options.quick:
        return Plan(options.n or bench.quick_n, warm_up=1, budget_sec=part.quick_sec)
    return Plan(options.n or bench.n, budget_sec=FULL_SEC)


def _measure_here(part: Part, plan: Plan) -> Measured:
    measured = Measured(part.name, place.describe(), os.uname().release)
    if place.is_vm():
        place.touch_memory()
    measure(part.arms(), plan, measured, _say)
    return measured


def _measure_in_vm(bench: Bench, part: Part, plan: Plan, options: argparse.Namespace) -> Measured:
    RUNS.mkdir(parents=True, exist_ok=True)
    raw = RUNS / f"{bench.name}-{part.name}-{os.getpid()}.json"
    inside = ["python", "scripts/bench", bench.name, "--part", part.name, "--n", str(plan.n)]
    inside += ["--raw", str(raw.relative_to(place.CHECKOUT)), *(["--quick"] if options.quick else [])]
    try:
        place.run_in_vm(part.vm or (), inside, plan.budget_sec + SETUP_SEC)
        measured = Measured(**json.loads(raw.read_text()))
    finally:
        raw.unlink(missing_ok=True)
    measured.machine = f"virtual machine with {measured.machine}, on a host with {place.describe()}"
    return measured


def run(options: argparse.Namespace) -> None:
    """Run a bench, or one part of it."""
    bench = find(options.name)
    if options.part is not None:
        part = next(part for part in bench.parts if part.name == options.part)
        options.raw.write_text(json.dumps(dataclasses.asdict(_measure_here(part, _plan(bench, part, options)))))
        return
    measured = []
    for part in bench.parts:
        plan = _plan(bench, part, options)
        here = part.vm is None or place.can_enforce()
        measured.append(_measure_here(part, plan) if here else _measure_in_vm(bench, part, plan, options))
    outcome = report.result(bench, measured)
    if options.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{bench.name}.json").write_text(json.dumps(outcome, indent=2, ensure_ascii=False) + "\n")
    if options.json:
        print(json.dumps(outcome, ensure_ascii=False))
    else:
        report.print_table(outcome, Console())


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # The clean-up must not be cut.
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status. Whether goals hold does not change it: a bench reports."""
    options = parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        if options.list:
            for name in BENCHES:
                print(f"{name}: {find(name).summary}")
            return 0
        run(options)
        return 0
    except AgentcgError as error:
        _say(f"{options.name} could not run: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
