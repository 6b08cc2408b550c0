# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentcg.errors import InvalidInput
from agentcg.model import Intent
from agentcg.policy.hint import parse_hint, take_hint, take_shell_hint
from agentcg.policy.intent import merge


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("memory:low", Intent(memory_max=256 << 20)),
        ("memory:medium", Intent(memory_max=1 << 30)),
        ("memory:high", Intent()),
        ("memory:512m", Intent(memory_max=512 << 20)),
        ("memory:2G", Intent(memory_max=2 << 30)),
        ("memory:high,cpu:batch", Intent(cpu_class="batch")),
        ("net:none", Intent(network_rate=0)),
        ("net:10m,time:5m", Intent(network_rate=10 << 20, duration_max_sec=300)),
        (
            "expect:300M,memory:1g,cpu:interactive,cores:1.5,pids:64,io:batch,time:90s,priority:0",
            Intent(
                memory_expected=300 << 20, memory_max=1 << 30, cpu_class="interactive", cpu_cores=1.5, pids_max=64,
                io_class="batch", duration_max_sec=90, priority=0,
            ),
        ),
    ],
)  # fmt: skip
def test_hints(text, intent):
    assert parse_hint(text) == intent


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("memory:1.5g", ".memory"), ("memory:-1", ".memory"), ("memory:0m", ".memory"), ("memory:512", ".memory"),
        ("memory:18446744073709551616", ".memory"), ("memory:18446744073709551615g", ".memory"),
        ("memory:x[$(id)]m", ".memory"), ("memory:", ".memory"), ("memory:512mib", ".memory"),
        ("memory:LOW", ".memory"),
        ("memory:1g,memory:2g", ".memory"), ("cpu:fast", ".cpu"), ("cores:0", ".cores"), ("cores:1e3", ".cores"),
        ("cores:nan", ".cores"), ("pids:0", ".pids"), ("pids:+5", ".pids"), ("priority:101", ".priority"),
        ("time:0s", ".time"), ("time:9000h", ".time"), ("net:0", ".net"), ("net:low", ".net"), ("net:1.5m", ".net"),
        ("expect:2g,memory:1g", ".memoryExpected"),
        ("", ""), (",", ""), ("memory:1g,", ""), ("memory", ""), ("disk:1g", ""), ("memory:1g, cpu:batch", ""),
        ("memory:1g\n", ""), ("memory:1g\0", ""), ("cpu:batch," * 40, ""),
    ],
)  # fmt: skip
def test_what_is_not_a_hint_is_refused_with_its_place_and_what_to_do(text, place):
    with pytest.raises(InvalidInput) as caught:
        parse_hint(text)
    assert caught.value.place == f"AGENT_RESOURCE_HINT{place}"
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_misspelt_key_is_answered_with_the_nearest():
    with pytest.raises(InvalidInput, match="did you mean 'memory'"):
        parse_hint("memroy:1g", place="--hint")


_ITEM = st.tuples(
    st.sampled_from(["memory", "cpu", "cores", "pids", "time", "net", "expect", "x"]), st.text(max_size=12)
)


@given(st.one_of(st.text(), st.lists(_ITEM.map(":".join), max_size=4).map(",".join)))
@example("cores:" + "9" * 200)
@example("pids:٣")
def test_any_text_is_a_valid_intent_or_invalid_input(text):
    try:
        intent = parse_hint(text)
    except InvalidInput:
        return
    assert intent.validate() == intent


def test_merge_is_field_by_field():
    over = Intent(memory_max=1, priority=0)
    assert merge(over, Intent(memory_max=2, pids_max=3, priority=9)) == Intent(memory_max=1, pids_max=3, priority=0)


@pytest.mark.parametrize(
    ("command", "hint", "rest"),
    [
        ("AGENT_RESOURCE_HINT=memory:2g pytest -x", "memory:2g", "pytest -x"),
        ("  AGENT_RESOURCE_HINT='memory:2g,cpu:batch' make", "memory:2g,cpu:batch", "make"),
        ('AGENT_RESOURCE_HINT="memory:low" true', "memory:low", "true"),
        ("AGENT_RESOURCE_HINT= true", "", "true"),
        ("AGENT_RESOURCE_HINT=memory:2g; pytest", None, "AGENT_RESOURCE_HINT=memory:2g; pytest"),
        ("AGENT_RESOURCE_HINT=memory:2g", None, "AGENT_RESOURCE_HINT=memory:2g"),
        ("echo AGENT_RESOURCE_HINT=memory:2g x", None, "echo AGENT_RESOURCE_HINT=memory:2g x"),
    ],
)
def test_a_hint_at_the_head_of_a_command_is_told_from_the_command(command, hint, rest):
    assert take_hint(command) == (hint, rest)


@pytest.mark.parametrize(
    "shell",
    [["sh", "-c"], ["bash", "-c"], ["bash", "-lc"], ["bash", "--login", "-c"], ["/bin/sh", "-c"]],
)
def test_a_hint_is_taken_from_what_a_shell_is_given_to_run(shell):
    command = [*shell, "AGENT_RESOURCE_HINT=memory:2g pytest -x"]
    assert take_shell_hint(command) == ("memory:2g", [*shell, "pytest -x"])
    assert take_shell_hint([*shell, "pytest -x"]) == (None, [*shell, "pytest -x"])


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["AGENT_RESOURCE_HINT=memory:2g pytest"],
        ["echo", "AGENT_RESOURCE_HINT=memory:2g pytest"],
        ["bash", "AGENT_RESOURCE_HINT=memory:2g pytest"],
        ["python3", "-c", "AGENT_RESOURCE_HINT=memory:2g pytest"],
        ["sh", "-c", "true", "AGENT_RESOURCE_HINT=memory:2g pytest"],
    ],
)
def test_other_commands_hold_no_hint(command):
    assert take_shell_hint(command) == (None, command)
