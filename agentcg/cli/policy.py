# SPDX-License-Identifier: Apache-2.0
"""``agentcg policy``: look at policies, check one, and see what one would do with a command."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import click
import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentcg.model import Budget, Intent, Limits, validate_command
from agentcg.policy.budget import budget_for
from agentcg.policy.decide import Decision, decide
from agentcg.policy.hint import parse_hint
from agentcg.policy.load import find, load, presets
from agentcg.policy.match import classify
from agentcg.policy.schema import DEFAULT_CLASS
from agentcg.units import format_duration, format_rate, format_size, parse_size

__all__ = ["policy"]


@click.group()
def policy() -> None:
    """Look at policies: what they say, whether they hold, what they would do."""


@policy.command("list")
def list_presets() -> None:
    """Name the policies that come with agentcg."""
    loaded = [load(name) for name in presets()]
    width = max(len(each.name) for each in loaded)
    for each in loaded:
        click.echo(f"{each.name:<{width}}  {each.description}")


@policy.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the policy NAME, a preset or a file, as it is written."""
    path = find(name)
    load(name)  # A file that is no policy is not shown as one.
    click.echo(path.read_text(encoding="utf-8"), nl=False)


@policy.command()
@click.argument("file")
def check(file: str) -> None:
    """Read FILE (or a preset) as a policy and say what is wrong with it."""
    checked = load(file)
    classes = len(checked.classes.keys() - {DEFAULT_CLASS})
    click.echo(f"{file}: ok, {_count(classes, 'class', 'classes')} and {_count(len(checked.rules), 'rule', 'rules')}")


@policy.command(context_settings={"allow_interspersed_args": False})
@click.option("--policy", "name", default="default", show_default=True, help="A preset or a policy file.")
@click.option("--tool", default="Bash", show_default=True, help="The tool that makes the call.")
@click.option("--memory", metavar="SIZE", help="Declare this much memory, such as 512M.")
@click.option("--hint", metavar="TEXT", help="Declare what AGENT_RESOURCE_HINT would say.")
@click.option("--protected", is_flag=True, help="In a session whose memory is reserved.")
@click.option("--capacity", metavar="SIZE", help="The machine's memory; this machine's if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def explain(
    name: str,
    tool: str,
    memory: str | None,
    hint: str | None,
    protected: bool,
    capacity: str | None,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Show which limits COMMAND would get, and why.

    As the first call of a fresh session: what past calls needed is not looked at.
    """
    chosen = load(name)
    text = validate_command("command", command)
    intent = Intent(memory_max=parse_size("--memory", memory)) if memory is not None else Intent()
    total = parse_size("--capacity", capacity) if capacity is not None else psutil.virtual_memory().total
    tenant, _ = budget_for(chosen.tenant, None, total)
    budget, _ = budget_for(chosen.session, None, tenant)
    decision = decide(
        chosen,
        tool=tool,
        command=text,
        intent=intent,
        hint=parse_hint(hint, place="--hint") if hint is not None else None,
        history=None,
        budget=budget,
        capacity=total,
        protected=protected,
    )
    _, rule = classify(chosen, tool, text)
    if as_json:
        click.echo(json.dumps(_json(chosen.name, chosen.source, text, rule, budget, total, decision), indent=2))
    else:
        _print(chosen.name, text, rule, budget, total, decision)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _print(name: str, command: str, rule: str, budget: Budget, capacity: int, decision: Decision) -> None:
    console = Console(highlight=False)
    shown = command if command.isprintable() else repr(command)
    console.print(f"Command  {escape(shown)}")
    console.print(f"Class    {escape(f'{decision.call_class} ({rule})')}")
    memory = f"{format_size(budget.memory_max)} on a machine with {format_size(capacity)}"
    console.print(f"Session  {memory}, policy {escape(name)}")
    table = Table("limit", "value", "why", box=None, header_style="bold", pad_edge=False)
    for field in dataclasses.fields(Limits):
        value = _people(field.name, getattr(decision.limits, field.name))
        table.add_row(field.name, value, escape(decision.reasons[field.name]))
    console.print(table)
    for note in decision.notes:
        console.print(f"Note: {escape(note)}")


def _people(field: str, value: Any) -> str:
    if value is None:
        return "none" if field == "memory_low" else "unlimited"
    if field.startswith(("memory", "swap")):
        return format_size(value)
    if field == "network_rate":
        return format_rate(value)
    return format_duration(value) if field == "duration_max_sec" else f"{value:.10g}"


def _json(
    name: str, source: str, command: str, rule: str, budget: Budget, capacity: int, decision: Decision
) -> dict[str, Any]:
    return {
        "policy": name,
        "source": source,
        "command": command,
        "callClass": decision.call_class,
        "rule": rule,
        "capacity": capacity,
        "budget": _camel(dataclasses.asdict(budget)),
        "limits": _camel(dataclasses.asdict(decision.limits)),
        "reasons": _camel(decision.reasons),
        "notes": decision.notes,
    }


def _camel(table: dict[str, Any]) -> dict[str, Any]:
    """The table under the names that the socket uses."""
    return {re.sub("_([a-z])", lambda match: match[1].upper(), key): value for key, value in table.items()}
