# SPDX-License-Identifier: Apache-2.0
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.errors import InvalidInput
from agentcg.model import COMMAND_MAX, Budget, CallRef, Intent, SessionRef, cut_command, validate_command, validate_name


@given(st.text(max_size=80))
def test_a_valid_name_is_one_safe_path_component(name):
    try:
        assert validate_name("call", name) == name
    except InvalidInput:
        return
    assert name.isascii()
    assert 0 < len(name) <= 64
    assert not set("/.\0\n ") & set(name)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\n", "x" * 65, "x" * 4096, "-a", "cgroup.procs", "é"])
def test_names_that_would_be_trouble_in_the_tree_are_refused(name):
    with pytest.raises(InvalidInput, match=r"^session: "):
        validate_name("session", name)


@given(st.text(max_size=40))
def test_a_call_reference_is_refused_or_reads_back_as_itself(text):
    try:
        ref = CallRef.parse("call", text)
    except InvalidInput:
        return
    assert str(ref) == text


@given(*[st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}", fullmatch=True)] * 3)
def test_a_call_reference_has_three_names(tenant, session, call):
    ref = CallRef.parse("call", f"{tenant}/{session}/{call}")
    assert ref == CallRef(SessionRef(tenant, session), call)
    with pytest.raises(InvalidInput, match="write TENANT/SESSION/CALL"):
        CallRef.parse("call", f"{tenant}/{session}")
    with pytest.raises(InvalidInput):
        CallRef.parse("call", f"{ref}/more")


def test_a_session_without_a_tenant_is_in_the_one_given():
    assert SessionRef.parse("session", "one", tenant="me") == SessionRef("me", "one")
    assert SessionRef.parse("session", "you/one", tenant="me") == SessionRef("you", "one")


def test_a_command_is_quoted_as_words_but_not_as_a_line():
    assert validate_command("command", ["echo", "a b", ";"]) == "echo 'a b' ';'"
    assert validate_command("command", ["echo a b; ls"]) == "echo a b; ls"
    assert len(validate_command("command", ["x" * 10_000])) == COMMAND_MAX
    with pytest.raises(InvalidInput, match=r"^command\[1\]: holds a NUL byte"):
        validate_command("command", ["echo", "a\0b"])


@pytest.mark.parametrize("command", [[], ["true"], ["sh", "-c", "x" * (COMMAND_MAX - 6)], ["x" * COMMAND_MAX]])
def test_a_command_that_is_not_long_is_not_cut(command):
    assert cut_command(command) == command


@pytest.mark.parametrize(
    "command",
    [["x" * 10_000], ["sh", "-c", "x" * (COMMAND_MAX - 5)], ["printf", *["x" * 50] * 100], ["x" * COMMAND_MAX, "x"]],
)
def test_a_long_command_is_cut(command):
    cut = cut_command(command)
    assert COMMAND_MAX - 1 <= len(" ".join(cut)) <= COMMAND_MAX + 2
    assert cut[:-1] == command[: len(cut) - 1]
    assert cut[-1].endswith("…")
    assert command[len(cut) - 1].startswith(cut[-1][:-1])


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("memory_max", 0, "memoryMax"), ("memory_max", -1, "memoryMax"), ("memory_max", 2**64, "memoryMax"),
        ("memory_max", True, "memoryMax"), ("swap_max", -1, "swapMax"), ("pids_max", 0, "pidsMax"),
        ("cpu_cores", math.nan, "cpuCores"), ("duration_max_sec", math.inf, "durationMaxSec"),
        ("priority", 101, "priority"), ("cpu_class", "fast", "cpuClass"),
        ("network_rate", -1, "networkRate"), ("network_rate", False, "networkRate"),
    ],
)  # fmt: skip
def test_an_intent_out_of_range_names_its_field(field, value, place):
    with pytest.raises(InvalidInput) as caught:
        Intent(**{field: value}).validate()
    assert caught.value.place == f"intent.{place}"


def test_an_intent_cannot_expect_more_than_its_maximum():
    with pytest.raises(InvalidInput, match="above memoryMax"):
        Intent(memory_expected=2, memory_max=1).validate()


def test_a_budget_out_of_range_names_its_field():
    with pytest.raises(InvalidInput, match=r"^budget\.cpuWeight: "):
        Budget(cpu_weight=0).validate()
