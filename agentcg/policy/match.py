# SPDX-License-Identifier: Apache-2.0
"""Which of a policy's classes a call falls into, and the short name under which its history is kept."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from agentcg.policy.schema import DEFAULT_CLASS, Policy, Rule
from agentcg.policy.shell import simple_commands

__all__ = ["KEY_MAX", "classify", "command_key", "simple_commands"]

KEY_MAX = 64  # Characters.


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Commands that only prepare the one that matters.
_PREPARING = _words(
    ". : [ [[ alias cd chmod declare echo exit export false hash local mkdir popd printf pushd pwd readonly return rm "
    "set shopt sleep source test touch trap true type ulimit umask unset wait which"
)
# Programs that do quite different things by their next word.
_WITH_SUBCOMMAND = _words(
    "apk apt apt-get bazel brew bun bundle cargo conda dnf docker dotnet gem gh git go gradle gradlew helm hg kubectl "
    "make mamba mvn npm pdm pip pipenv pnpm podman poetry rustup svn systemctl terraform uv yarn yum"
)
_WITH_TWO = frozenset(
    [("npm", "run"), ("pnpm", "run"), ("yarn", "run"), ("uv", "pip"), ("docker", "compose"), ("go", "mod")]
)
_SUBCOMMAND = re.compile(r"[A-Za-z][\w.:-]*")


def classify(policy: Policy, tool: str, command: str) -> tuple[str, str]:
    """Return the class of a call and which rule put it there.

    The first rule in the policy's order that matches any simple command of ``command`` wins. A ``light`` rule counts
    only when every simple command falls under some light rule: ``cat x | heavy`` is not light because of its ``cat``.
    """
    commands = simple_commands(command)
    light: bool | None = None
    for number, rule in enumerate(policy.rules, 1):
        if not _tool_matches(rule, tool):
            continue
        if not rule.commands:
            return rule.call_class, f"rule {number}: tool {tool}"
        matched = next((pattern for words in commands if (pattern := _pattern(rule, words))), None)
        if matched is None:
            continue
        if rule.light:
            if light is None:
                light = _all_light(policy, tool, commands)
            if not light:
                continue
        return rule.call_class, f"rule {number}: {' '.join(matched)}"
    return DEFAULT_CLASS, "no rule matches"


def _all_light(policy: Policy, tool: str, commands: list[list[str]]) -> bool:
    rules = [rule for rule in policy.rules if rule.light and _tool_matches(rule, tool)]
    return all(any(_pattern(rule, words) for rule in rules) for words in commands)


def _tool_matches(rule: Rule, tool: str) -> bool:
    return not rule.tools or any(fnmatchcase(tool, glob) for glob in rule.tools)


def _pattern(rule: Rule, words: list[str]) -> tuple[str, ...] | None:
    """The longest of the rule's commands that ``words`` begin with."""
    heads = (tuple(words[:length]) for length in rule.lengths)
    return next((head for head in heads if head in rule.commands), None)


def command_key(tool: str, command: str) -> str:
    """Return the name under which calls like this one are remembered: ``pytest``, ``pip install``, ``python -m tox``.

    It is the program of the first command that does more than prepare (``cd``, ``export``), and the next word where
    that says what the program does. Without a command it is the tool's name.
    """
    commands = simple_commands(command)
    if not commands:
        return _short(tool)
    return _short(" ".join(_key(next((words for words in commands if words[0] not in _PREPARING), commands[0]))))


def _key(words: list[str]) -> list[str]:
    head = words[0]
    if head == "python":
        if len(words) > 2 and words[1] == "-m":
            return words[:3]
        return ["python", words[1].rsplit("/", 1)[-1]] if len(words) > 1 else ["python"]
    if head in _WITH_SUBCOMMAND and len(words) > 1 and _SUBCOMMAND.fullmatch(words[1]):
        if tuple(words[:2]) in _WITH_TWO and len(words) > 2 and _SUBCOMMAND.fullmatch(words[2]):
            return words[:3]
        return words[:2]
    return [head]


def _short(key: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in key[:KEY_MAX])
