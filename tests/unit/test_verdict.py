# SPDX-License-Identifier: Apache-2.0
"""Every way a call can end, from its counters, and what its agent is told to do."""

from typing import Any

import pytest

from agentcg.model import CallRef, Intent, Limits, SessionRef, ToolCall, Usage, Verdict
from agentcg.verdict import Ending, judge

REF = CallRef(SessionRef("u0", "s1"), "c1")


def verdict(usage: dict[str, Any] | None = None, *, limits: Limits | None = None, **ending: Any) -> Verdict:
    call = ToolCall(REF, 0, 100.0, command=ending.pop("command", "pytest -n 8"), limits=limits or Limits())
    return judge(call, Usage(**{"duration_sec": 10.0, **(usage or {})}), Ending(110.0, **ending))


@pytest.mark.parametrize(
    ("usage", "ending", "outcome"),
    [
        ({}, {"exit_code": 0}, "ok"),
        ({}, {"exit_code": 3}, "exit_status"),
        ({}, {"exit_code": 137}, "exit_status"),
        ({}, {"signal": 9}, "signal"),
        ({"oom_kills": 0, "memory_oom_events": 0, "memory_max_events": 900}, {"signal": 9}, "signal"),
        ({"memory_oom_events": 1, "oom_kills": 0}, {"exit_code": 1}, "exit_status"),
        ({"memory_oom_events": 1, "oom_kills": 2}, {"exit_code": 137}, "memory_limit"),
        ({"memory_oom_events": 1, "oom_kills": 1}, {"exit_code": 0}, "memory_limit"),
        ({"memory_oom_events": 0, "oom_kills": 1}, {"signal": 9}, "oom_killed"),
        ({"oom_kills": 1}, {"signal": 9}, "oom_killed"),
        ({"memory_oom_events": 1, "oom_kills": 1}, {"timed_out": True}, "memory_limit"),
        ({}, {"timed_out": True}, "timed_out"),
        ({"pids_limit_events": 4}, {"timed_out": True}, "timed_out"),
        ({}, {"reason": "its session was closed"}, "killed"),
        ({"pids_limit_events": 4}, {"exit_code": 1}, "pids_limit"),
        ({"pids_limit_events": 4}, {}, "pids_limit"),
        ({"pids_limit_events": 4}, {"exit_code": 0}, "ok"),
        ({}, {}, "unknown"),
    ],
)
def test_outcomes(usage: dict[str, Any], ending: dict[str, Any], outcome: str) -> None:
    assert verdict(usage, **ending).outcome == outcome


def test_what_was_refused_is_said_beside_whatever_else_there_is_to_say() -> None:
    sentence = "was refused 1 attempt to leave its call or to act on what is outside; all that a call starts stays in"
    assert verdict({"refusals": 1}, exit_code=0).advice == f"`pytest -n 8` {sentence} it, so do the work there."
    both = verdict({"refusals": 2}, reason="its session was closed").advice
    assert both.startswith("`pytest -n 8` was ended: its session was closed. It was refused 2 attempts to leave its")
    assert verdict({"refusals": 0}, exit_code=0).advice == ""


def test_what_is_known_is_kept() -> None:
    found = verdict(exit_code=3, reason="")
    assert (found.ref, found.exit_code, found.signal, found.started, found.ended) == (REF, 3, None, 100.0, 110.0)


@pytest.mark.parametrize(
    ("usage", "ending", "advice"),
    [
        ({}, {"exit_code": 0}, ""),
        ({}, {"exit_code": 3}, ""),
        ({}, {"signal": 11}, ""),
        ({}, {}, ""),
        (
            {"memory_oom_events": 1, "oom_kills": 1, "memory_peak": 1 << 30, "memory_stall_sec": 3.2},
            {"signal": 9},
            "`pytest -n 8` was stopped at its memory limit of 1.0 GiB after being slowed down there for 3.2 s; "
            "run fewer workers or a smaller part of the work, or ask for 1.5 GiB.",
        ),
        (
            {"memory_oom_events": 1, "oom_kills": 1, "memory_peak": 1 << 30, "memory_stall_sec": 0.05},
            {"signal": 9},
            "`pytest -n 8` was stopped at its memory limit of 1.0 GiB; "
            "run fewer workers or a smaller part of the work, or ask for 1.5 GiB.",
        ),
        (
            {"oom_kills": 1, "memory_peak": 300 << 20},
            {"signal": 9},
            "`pytest -n 8` was ended while using 300 MiB because memory ran out above it, in its session or in what "
            "all sessions share, not at its own limit. Run it again, with fewer calls at the same time.",
        ),
        (
            {},
            {"timed_out": True},
            "`pytest -n 8` was stopped after 1 min, its longest allowed duration; "
            "run a smaller part of the work, or declare a longer duration.",
        ),
        (
            {"pids_limit_events": 4},
            {"exit_code": 1},
            "`pytest -n 8` was refused new processes 4 times at its limit of 64; "
            "run fewer workers or ask for more pids.",
        ),
        (
            {"pids_limit_events": 1},
            {"exit_code": 0},
            "`pytest -n 8` was refused new processes once at its limit of 64.",
        ),
        ({}, {"reason": "it was cancelled"}, "`pytest -n 8` was ended: it was cancelled."),
        (
            {"memory_high_events": 5, "memory_stall_sec": 2.0, "memory_peak": 900 << 20},
            {"exit_code": 0},
            "`pytest -n 8` was slowed down for 2.0 s at 922 MiB of memory; "
            "run fewer workers or a smaller part of the work, or ask for 1.5 GiB.",
        ),
        (
            {"cpu_throttled_sec": 4.0},
            {"exit_code": 0},
            "`pytest -n 8` was held to 2.0 CPU cores and waited 4.0 s for them; "
            "run fewer workers or ask for more cores.",
        ),
    ],
)
def test_advice(usage: dict[str, Any], ending: dict[str, Any], advice: str) -> None:
    limits = Limits(memory_max=1 << 30, memory_high=922 << 20, pids_max=64, cpu_cores=2.0, duration_max_sec=60)
    assert verdict(usage, limits=limits, **ending).advice == advice


@pytest.mark.parametrize(
    ("usage", "throttled"),
    [
        ({"memory_stall_sec": 5.0}, False),  # Somebody else's pressure: it never reached its own memory.high.
        ({"memory_stall_sec": 5.0, "memory_high_events": 1}, True),
        ({"memory_stall_sec": 0.49, "memory_high_events": 9}, False),
        ({"cpu_throttled_sec": 0.5}, True),
        ({"cpu_throttled_sec": 0.5, "duration_sec": 100.0}, False),
        ({}, False),
    ],
)
def test_being_slowed_down_counts_from_a_noticeable_time(usage: dict[str, Any], throttled: bool) -> None:
    assert verdict(usage, exit_code=0).throttled is throttled


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("printf '\x1b[2J\x07'\nrm `x`", "printf ' [2J ' rm 'x'"),
        ("echo \u202ehidden", "echo hidden"),
        ("x" * 100, "x" * 59 + "…"),
        ("", "the call"),
    ],
)
def test_a_command_is_shown_on_one_line_without_control_characters(command: str, shown: str) -> None:
    advice = verdict({"oom_kills": 1}, command=command).advice
    assert advice.startswith(f"`{shown}` was ended")
    assert advice.isprintable()


def test_advice_without_limits_is_still_a_sentence() -> None:
    advice = verdict({"memory_oom_events": 1, "oom_kills": 1, "memory_peak": 100 << 20}, exit_code=1).advice
    assert advice.endswith("or ask for 192 MiB.")


def test_a_call_without_a_command_is_named_by_its_tool() -> None:
    found = judge(ToolCall(REF, 0, 0.0, tool="Read"), Usage(1.0), Ending(1.0, reason="x"))
    assert found.advice == "`Read` was ended: x."


@pytest.mark.parametrize(
    ("declared", "ending", "advice"),
    [
        (
            0,
            {"exit_code": 1},
            "`x` tried to use the network and was refused 3 times: it had declared that it would not. Do without, or "
            "declare nothing of the kind.",
        ),
        (
            None,
            {"signal": 15},
            "`x` tried to use the network and was refused 3 times: the policy allows none to class 'offline'. "
            "Do without.",
        ),
        (0, {"exit_code": 0}, ""),
        (0, {"reason": "it was cancelled"}, "`x` was ended: it was cancelled."),
    ],
)
def test_a_call_that_failed_for_want_of_the_network_is_told_who_refused_it(
    declared: int | None, ending: dict[str, Any], advice: str
) -> None:
    call = ToolCall(REF, 0, 0.0, command="x", call_class="offline", intent=Intent(network_rate=declared))
    assert judge(call, Usage(1.0, network_refused=3), Ending(1.0, **ending)).advice == advice
    if not ending.get("reason"):
        assert judge(call, Usage(1.0, network_refused=0), Ending(1.0, **ending)).advice == ""
