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

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.replay.host import describe_machine
from benches import place, report
from benches.harness import Arm, Bench, Measured, Part, Plan, measure

__all__ = ["BENCHES", "find", "main", "parse"]

BENCHES = (
    "calls",
    "gateway",
    "isolation",
    "kv",
    "kv_engines",
    "kv_llamacpp",
    "predict",
    "scheduler",
    "soak",
    "vllm_steps",
    "ways",
)
RESULTS = place.CHECKOUT / "bench/results"
RUNS = place.CHECKOUT / "bench/runs"
SETUP_SEC = 420.0
LONG_SEC = 120.0
"""A run that will take longer says so before."""
BOOTS = 3
"""How often a part is begun: an emulated machine with two CPUs may die on the way."""


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
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--parts", type=_names, default=(), metavar="A,B", help="only these parts")
    parser.add_argument("--arms", type=_names, default=(), metavar="A,B", help="only these arms; none is none.PART too")
    # How a bench calls itself in the VM: measure one part, write what came of it to a file.
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.list and options.name is None:
        parser.error("name a bench: see --list")
    if options.save and options.quick:
        parser.error("--save keeps no quick results: leave out --quick")
    if (options.part is None) != (options.raw is None):
        parser.error("--part and --raw go together")
    return options


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _plan(bench: Bench, part: Part, options: argparse.Namespace) -> Plan:
    if options.quick:
        return Plan(options.n or bench.quick_n, warm_up=min(1, bench.warm_up), budget_sec=part.quick_sec)
    return Plan(options.n or bench.n, warm_up=bench.warm_up, budget_sec=part.full_sec, first=options.first)


def chosen_arms(part: Part, options: argparse.Namespace) -> list[Arm]:
    """Return the arms of a part that the command line asks for."""
    wanted = options.arms or (part.quick_arms if options.quick else ())
    return [
        arm for arm in part.arms() if not wanted or {arm.name, arm.name.removesuffix(f".{part.name}")} & set(wanted)
    ]


def chosen_parts(bench: Bench, options: argparse.Namespace) -> list[Part]:
    """Return the parts that the command line asks for, and that have an arm it asks for.

    :raises InvalidInput: if it asks for what there is not
    """
    known = [part.name for part in bench.parts]
    if strange := set(options.parts) - set(known):
        raise InvalidInput("--parts", f"there is no {sorted(strange)[0]!r}", hint=f"there are {', '.join(known)}")
    parts = [part for part in bench.parts if not options.parts or part.name in options.parts]
    if options.quick and not options.parts:
        parts = [part for part in parts if part.quick_sec]
    if not (parts := [part for part in parts if chosen_arms(part, options)]):
        arms = dict.fromkeys(arm.name for part in bench.parts for arm in part.arms())
        raise InvalidInput("--arms", "no part has one of them", hint=f"there are {', '.join(arms)}")
    return parts


def _tell_time(bench: Bench, parts: Sequence[Part], options: argparse.Namespace) -> None:
    expected = []
    for part in parts:
        plan = _plan(bench, part, options)
        expected.append(min(plan.n * sum(arm.expected_sec for arm in chosen_arms(part, options)), plan.budget_sec))
    if sum(expected) > LONG_SEC:
        each = ", ".join(f"{part.name} {sec / 60:.0f}" for part, sec in zip(parts, expected, strict=True))
        _say(f"this will take some {sum(expected) / 60:.0f} minutes: {each}")


def _measure_here(part: Part, plan: Plan, options: argparse.Namespace) -> Measured:
    measured = Measured(part.name, describe_machine(), os.uname().release)
    if place.is_vm():
        place.touch_memory()
    measure(chosen_arms(part, options), plan, measured, _say, lambda: _keep(measured, options.raw))
    return measured


def _keep(measured: Measured, raw: Path | None) -> None:
    """Write what was measured so far where it outlives this machine."""
    if raw is not None:
        part = raw.with_suffix(".part")
        part.write_text(json.dumps(dataclasses.asdict(measured)))
        part.replace(raw)


def _measure_in_vm(bench: Bench, part: Part, plan: Plan, options: argparse.Namespace) -> Measured:
    """Measure a part in the VM; what is left of it in another one, if that dies after a round or more."""
    measured = Measured(part.name, "", "")
    for _ in range(BOOTS):
        found, died = _measure_in_one_vm(bench, part, plan, options, measured.rounds)
        if died is not None and (found is None or not found.rounds) and not measured.rounds:
            raise died
        measured = measured if found is None else measured.joined(found)
        if died is None:
            break
        _say(f"the part {part.name}: {died}")
        measured.notes.append(f"in the part {part.name} the machine died after {measured.rounds} rounds")
        if found is None or not found.rounds or measured.rounds >= plan.n:
            break
    measured.machine = f"virtual machine with {measured.machine}, on a host with {describe_machine()}"
    return measured


def _measure_in_one_vm(
    bench: Bench, part: Part, plan: Plan, options: argparse.Namespace, done: int
) -> tuple[Measured | None, AgentcgError | None]:
    RUNS.mkdir(parents=True, exist_ok=True)
    raw = RUNS / f"{bench.name}-{part.name}-{os.getpid()}.json"
    inside = ["python", "scripts/bench", bench.name, "--part", part.name, "--n", str(plan.n - done)]
    inside += ["--raw", str(raw.relative_to(place.CHECKOUT)), "--first", str(done)]
    inside += ["--quick"] if options.quick else []
    inside += ["--arms", ",".join(options.arms)] if options.arms else []
    died: AgentcgError | None = None
    try:
        place.run_in_vm(part.vm or (), inside, plan.budget_sec + SETUP_SEC)
    except AgentcgError as error:
        died = error
    try:
        found = Measured(**json.loads(raw.read_text()))
    except FileNotFoundError:
        return None, died or AgentcgError(f"the part {part.name} left no result", hint="what it printed stands above")
    finally:
        raw.unlink(missing_ok=True)
    return found, died


def run(options: argparse.Namespace) -> None:
    """Run a bench, or one part of it."""
    bench = find(options.name)
    if options.part is not None:
        part = next(part for part in bench.parts if part.name == options.part)
        _keep(_measure_here(part, _plan(bench, part, options), options), options.raw)
        return
    parts = chosen_parts(bench, options)
    _tell_time(bench, parts, options)
    if bench.before is not None:
        bench.before()
    measured, busy = [], place.busy()
    for part in parts:
        plan = _plan(bench, part, options)
        here = part.vm is None or place.can_enforce()
        measured.append(_measure_here(part, plan, options) if here else _measure_in_vm(bench, part, plan, options))
    measured[0].notes += [busy] if busy else []
    arms = {arm.name for part in parts for arm in chosen_arms(part, options)}
    ratios = tuple(ratio for ratio in bench.ratios if arms.issuperset(ratio.arms))
    if options.parts or options.arms:
        measured[0].notes.insert(0, f"not all of the bench, only: {', '.join(sorted(arms))}")
    outcome = report.result(dataclasses.replace(bench, ratios=ratios), measured)
    if options.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        # What was left out must not take the place of a whole result.
        chosen = [part.name for part in parts] if options.parts or options.arms else []
        path = RESULTS / f"{'-'.join([bench.name, *chosen])}.json"
        path.write_text(json.dumps(outcome, indent=2, ensure_ascii=False) + "\n")
    if options.json:
        print(json.dumps(outcome, ensure_ascii=False))
    else:
        report.print_table(outcome, Console(width=None if sys.stdout.isatty() else 120))


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
