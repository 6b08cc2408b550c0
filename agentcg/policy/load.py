# SPDX-License-Identifier: Apache-2.0
"""Policies from TOML files, and the presets that come with agentcg.

::

    version = 1
    name = "..."                  # default: the file's name
    description = "..."
    extends = "default"           # a preset: keys and classes not given here are as there, its rules come after these

    [tenant]                      # of the machine, and [session] of its tenant: what one gets, the most it may ask for
    memory = "75%"                # of what is above; or a size; or "unlimited" (default)
    swap = "0"                    # a size; always limited
    pids = 8192                   # default: not limited
    cpu_weight = 100              # 1 to 10000
    cpu_cores = 8.0               # default: not limited

    [defaults]                    # the class "default", and what every other class inherits
    memory_expected = "512M"      # what a call is expected to need; reserved in a protected session
    memory_max = "4G"             # the wall; or "unlimited": the session's budget (default)
    memory_cap = "8G"             # the most an intent or history may come to; default: the session's budget
    headroom = 0.9                # memory.high as a part of memory.max, 0.5 to 0.99
    swap_max = "0"                # an intent may ask for less, not for more
    pids_max = 1024
    cpu = "normal"                # interactive, normal, batch
    cores = 2.0                   # default: not limited
    io = "normal"
    duration_max = "30m"          # or "unlimited" (default)
    duration_cap = "2h"           # the most an intent may ask for; default: duration_max
    network = "none"              # or bytes per second that may be sent: "10M"; or "unlimited" (default)
    priority = 50                 # 0 to 100
    background = "kill"           # what a command leaves running: kill, adopt (by the agent), leave (in its cgroup)

    [class.test]                  # any of the keys of [defaults]
    memory_max = "2G"

    [[rule]]                      # in order, the first that matches decides
    tool = ["Bash"]               # globs; default: any tool
    command = ["pytest", "python -m pytest"]    # words that a command of the shell line begins with; default: any
    class = "test"
    light = false                 # true: only if every command of the line falls under some light rule

    [history]
    min_calls = 5                 # past calls of the same kind before their peaks are believed
    margin = 1.5                  # expected = margin x the 95th percentile of their peaks

    [kv]                          # between calls and the caches of LLM servers that have said hello: docs/kv.md
    signals = true                # servers are told of calls
    weights = true                # sessions whose cache is in the way get more of the CPUs, up to 4 times their share
    order = true                  # and their held calls start first

    [transparent]                 # what an agent executes in a transparent session and that is then a call: any of
    shells = ["sh", "bash"]       # these with -c; default: every shell that is known
    programs = ["pytest"]         # these, whatever their options; default: none
    new_session = false           # whatever leads a session of its own (setsid)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import agentcg
from agentcg.errors import InvalidInput
from agentcg.policy.keys import (
    BUDGET_KEYS,
    CLASS_KEYS,
    HISTORY_KEYS,
    KV_KEYS,
    RULE_KEYS,
    TOP_KEYS,
    TRANSPARENT_KEYS,
)
from agentcg.policy.schema import (
    DEFAULT_CLASS,
    CallClass,
    HistoryRules,
    KvRules,
    Policy,
    PolicyBudget,
    Rule,
    TransparentRules,
)
from agentcg.tables import nearest, read_document, read_table
from agentcg.units import format_duration, format_size

__all__ = ["VERSION", "find", "load", "presets"]

VERSION = 1


def _preset_folder() -> Path:
    package = Path(agentcg.__file__).parent
    installed = package / "policies"
    return installed if installed.is_dir() else package.parent / "policies"


def presets() -> list[str]:
    """Return the names of the policies that come with agentcg."""
    return sorted(path.stem for path in _preset_folder().glob("*.toml"))


def find(path_or_preset: str) -> Path:
    """Return the file that a preset's name or a path stands for; whatever has a ``/`` or a ``.toml`` is a path.

    :raises InvalidInput: if it is the name of no preset
    """
    if "/" in path_or_preset or path_or_preset.endswith(".toml"):
        return Path(path_or_preset)
    names = presets()
    if path_or_preset not in names:
        hint = f"{nearest(path_or_preset, names)}; a file's name ends in .toml"
        raise InvalidInput("policy", f"there is no preset {path_or_preset[:80]!r}", hint=hint)
    return _preset_folder() / f"{path_or_preset}.toml"


def load(path_or_preset: str) -> Policy:
    """Read a policy by its preset's name or its path.

    :raises InvalidInput: naming the file and the key, if there is no such file or it is not a policy
    """
    path = find(path_or_preset)
    return _policy(str(path), path.stem, _document(path))


def _document(path: Path) -> dict[str, Any]:
    """The file's content, with the preset that it extends under it."""
    place = str(path)
    hint = f"name a file that can be read, or a preset: {', '.join(presets())}"
    own = read_table(f"{place}: ", read_document(path, VERSION, hint=hint), TOP_KEYS)
    base = own.pop("extends", None)
    if base is None:
        return own
    if base not in presets():
        raise InvalidInput(f"{place}: extends", f"there is no preset {base!r}", hint=nearest(base, presets()))
    under = _document(find(base))
    return _over(own, under) | {"rule": [*own.get("rule", []), *under.get("rule", [])]}


def _over(over: dict[str, Any], under: dict[str, Any]) -> dict[str, Any]:
    """One table laid over another, tables inside them likewise."""
    both = under | over
    for key in over.keys() & under.keys():
        if isinstance(over[key], dict) and isinstance(under[key], dict):
            both[key] = _over(over[key], under[key])
    return both


def _policy(place: str, name: str, top: dict[str, Any]) -> Policy:
    defaults = CallClass(**read_table(f"{place}: defaults.", top.get("defaults", {}), CLASS_KEYS))
    classes = {DEFAULT_CLASS: _coherent(f"{place}: defaults", defaults)}
    for class_name, table in top.get("class", {}).items():
        where = f"{place}: class.{class_name}"
        if class_name == DEFAULT_CLASS:
            raise InvalidInput(where, "is what [defaults] says already", hint="move its keys to [defaults]")
        own = read_table(f"{where}.", table, CLASS_KEYS)
        classes[class_name] = _coherent(where, dataclasses.replace(defaults, name=class_name, **own))

    rules = [
        _rule(f"{place}: rule {number}", table, classes) for number, table in enumerate(top.get("rule", []), start=1)
    ]
    return Policy(
        name=top.get("name", name),
        source=place,
        description=top.get("description", ""),
        tenant=PolicyBudget(**read_table(f"{place}: tenant.", top.get("tenant", {}), BUDGET_KEYS)),
        session=PolicyBudget(**read_table(f"{place}: session.", top.get("session", {}), BUDGET_KEYS)),
        classes=classes,
        rules=tuple(rules),
        history=HistoryRules(**read_table(f"{place}: history.", top.get("history", {}), HISTORY_KEYS)),
        kv=KvRules(**read_table(f"{place}: kv.", top.get("kv", {}), KV_KEYS)),
        transparent=TransparentRules(
            **read_table(f"{place}: transparent.", top.get("transparent", {}), TRANSPARENT_KEYS)
        ),
    )


def _rule(place: str, table: object, classes: dict[str, CallClass]) -> Rule:
    own = read_table(f"{place}: ", table, RULE_KEYS)
    name = own.get("class")
    if name is None:
        raise InvalidInput(f"{place}: class", "is missing", hint=f"write one of {', '.join(classes)}")
    if name not in classes:
        raise InvalidInput(f"{place}: class", f"there is no class {name!r}", hint=nearest(name, list(classes)))
    if not own.get("tool") and not own.get("command"):
        raise InvalidInput(
            place, "matches everything", hint="give it a tool or a command; [defaults] is for all that no rule matches"
        )
    return Rule(
        call_class=name,
        tools=own.get("tool", ()),
        commands=own.get("command", frozenset()),
        light=own.get("light", False),
    )


def _coherent(place: str, call_class: CallClass) -> CallClass:
    """Return the class. :raises InvalidInput: if what it inherits and what it says cannot both hold."""
    for low, high, shown in (
        ("memory_expected", "memory_max", format_size),
        ("memory_max", "memory_cap", format_size),
        ("duration_max", "duration_cap", format_duration),
    ):
        below, above = getattr(call_class, low), getattr(call_class, high)
        if below is not None and above is not None and below > above:
            raise InvalidInput(
                f"{place}.{low}", f"{shown(below)} is above {high} {shown(above)}", hint=f"lower {low} or raise {high}"
            )
    return call_class
