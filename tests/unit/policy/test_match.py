# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.policy.load import load
from agentcg.policy.match import KEY_MAX, classify, command_key
from agentcg.policy.schema import CallClass, Policy, Rule

DEFAULT = load("default")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("pytest -x", "test"),
        ("cd a && PYTHONPATH=. timeout 60 /venv/bin/python3.11 -m pytest a 2>&1 | head -50", "test"),
        ("pip install -e . && pytest", "test"),
        ("python -m pip install x", "install"),
        ("make -C sub all", "build"),
        ("make test", "test"),
        ("npm run build", "build"),
        ("npm start", "default"),
        ("python x.py", "script"),
        ("python << 'EOF'\nimport pytest\nEOF", "script"),
        ("cd a && git log | head -5", "vcs"),
        ("grep -rn pytest . | sort | uniq -c", "search"),
        ("cat data | ./simulate", "default"),
        ("git pull && ./simulate", "default"),
        ("echo pytest", "search"),
        ("", "default"),
    ],
)
def test_the_default_policy_knows_what_agents_run(command, expected):
    assert classify(DEFAULT, "Bash", command)[0] == expected


def policy(*rules):
    return Policy("p", "p.toml", classes={name: CallClass(name) for name in ("default", "a", "b")}, rules=rules)


def test_the_first_rule_wins_not_the_first_command():
    rules = Rule("a", commands=frozenset([("two", "x")])), Rule("b", commands=frozenset([("one",), ("two",)]))
    assert classify(policy(*rules), "Bash", "one; two x") == ("a", "rule 1: two x")
    assert classify(policy(*rules), "Bash", "one; two y") == ("b", "rule 2: one")
    assert classify(policy(*rules), "Bash", "three") == ("default", "no rule matches")


def test_a_rule_may_ask_for_a_tool_and_a_command():
    rules = Rule("a", tools=("mcp__*",), commands=frozenset([("one",)])), Rule("b", tools=("Read",))
    assert classify(policy(*rules), "mcp__shell", "one")[0] == "a"
    assert classify(policy(*rules), "Bash", "one")[0] == "default"
    assert classify(policy(*rules), "Read", "") == ("b", "rule 2: tool Read")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("cd a && pytest -x", "pytest"),
        ("sudo pip3 install a b", "pip install"),
        ("git -C a status --short", "git status"),
        ("git --version", "git"),
        ("python3.11 -m pytest a", "python -m pytest"),
        ("python tools/gen.py a", "python gen.py"),
        ("python -c 'print(1)'", "python -c"),
        ("npm run build", "npm run build"),
        ("docker compose --help", "docker compose"),
        ("cd a", "cd"),
        ("# nothing", "Bash"),
        ("./a\x07b", "a?b"),
    ],
)
def test_the_key_is_what_makes_calls_alike(command, key):
    assert command_key("Bash", command) == key


@given(st.text(), st.text())
def test_any_call_has_a_class_and_a_short_printable_key(tool, command):
    assert classify(DEFAULT, tool, command)[0] in DEFAULT.classes
    key = command_key(tool, command)
    assert len(key) <= KEY_MAX
    assert key.isprintable()
