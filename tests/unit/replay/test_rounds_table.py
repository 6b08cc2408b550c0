# SPDX-License-Identifier: Apache-2.0
"""The table of many rounds."""

import io

from rich.console import Console

from agentcg.replay.result import ArmResult, CallResult, SessionResult, TurnsResult, latency
from agentcg.replay.rounds_table import render_rounds
from agentcg.replay.run_folder import FinishedArm


def session(name, took, state="finished", *, protected=False, failed=0, growth=(0.05,), turns=None):
    return SessionResult(
        name=name,
        recording="r",
        protected=protected,
        reserve=1 if protected else None,
        state=state,
        completion_sec=took,
        recorded_sec=2.0,
        calls_recorded=3,
        calls_started=3,
        failed=[CallResult("c", "ls", "oom_killed")] * failed,
        growth=latency(growth),
        boundaries=latency([]),
        oom_kills_agent=0,
        oom_kills_call=failed,
        turns=turns,
    )


def done(number, arm, *sessions):
    result = ArmResult(arm, 1 << 30, 20.0, 9.0, list(sessions), (number + 1) << 20)
    return FinishedArm(number, arm, result, 9.0)


def rows(results, arms):
    console = Console(width=200, file=io.StringIO(), highlight=False)
    console.print(render_rounds(results, arms))
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_each_session_of_all_rounds_has_its_medians_and_what_they_are_over_the_first_arm():
    results = []
    for number in range(3):
        died = session("low", 1.0, "died", failed=1) if number == 1 else session("low", 4.0 + number)
        results.append(done(number, "none", session("high", 4.0, protected=True), died))
        results.append(done(number, "agentcg", session("high", 3.0, protected=True), session("low", 6.0 + number)))
    assert rows(results, ["none", "agentcg"]) == [
        ["high", "died", "0 of 3", "0 of 3"],
        ["", "not finished", "0 of 3", "0 of 3"],
        ["", "calls failed", "0 of 3", "0 of 3"],
        ["", "x", "2.00 [2.00, 2.00]", "1.50 [1.50, 1.50]"],
        ["", "over without agentcg", "", "0.75 [0.75, 0.75]"],
        ["", "growth P95, ms", "50.0 [50.0, 50.0]", "50.0 [50.0, 50.0]"],
        ["low", "died", "1 of 3", "0 of 3"],
        ["", "not finished", "0 of 3", "0 of 3"],
        ["", "calls failed", "1 of 3", "0 of 3"],
        # Of the two rounds in which it finished: 2 and 3 times the recorded length.
        ["", "x", "2.50 [2.00, 3.00]", "3.50 [3.00, 4.00]"],
        # Of the rounds in which it finished under both: 3 and 4 over 2 and 3.
        ["", "over without agentcg", "", "1.40 [1.33, 1.50]"],
        ["", "growth P95, ms", "50.0 [50.0, 50.0]", "50.0 [50.0, 50.0]"],
        ["all", "somebody died", "1 of 3", "0 of 3"],
        ["", "peak", "2.0 MiB", "2.0 MiB"],
    ]


def test_rounds_with_sessions_of_their_own_have_the_protected_and_the_others():
    results = [
        done(0, "none", session("a", 2.0, protected=True), session("b", 4.0), session("c", 8.0)),
        done(1, "none", session("d", 6.0, protected=True), session("a", 1.0, "died"), session("b", 9.0, "timed_out")),
    ]
    found = rows(results, ["none"])
    assert [row[0] for row in found if row[0]] == ["protected", "others", "all"]
    assert found[3][1:] == ["x", "2.00 [1.00, 3.00]"]
    assert [row[2] for row in found[6:9]] == ["1 of 2", "1 of 2", "0 of 2"]
    assert found[9][1:] == ["x", "3.00 [3.00, 3.00]"]


def test_turns_have_their_rows_where_a_server_was_asked():
    def asked(number, **known):
        return session("a", 2.0, turns=TurnsResult(**({"n": 2, "mean_sec": 1.0 + number, "p95_sec": 2.0} | known)))

    results = [done(number, "none", asked(number, prompt_tokens=500, cached_tokens=100)) for number in range(3)]
    lost = session("a", 1.0, "unanswered", turns=TurnsResult(0, None, None, 0, 0))
    results += [
        done(0, "agentcg", lost),
        *(done(at, "agentcg", asked(5, prompt_tokens=9, cached_tokens=None)) for at in (1, 2)),
    ]
    found = rows(results, ["none", "agentcg"])
    assert found[1] == ["", "not finished", "0 of 3", "1 of 3"]
    assert found[6] == ["", "mean turn, s", "2.00 [1.00, 3.00]", "6.00 [6.00, 6.00]"]
    assert found[7] == ["", "prompt tokens computed", "400 [400, 400]", "–"]


def test_what_nobody_knows_is_a_dash():
    results = [done(number, "none", session("a", 1.0, "died", growth=())) for number in range(2)]
    results += [done(number, "agentcg", session("a", 2.0)) for number in range(2)]
    found = rows(results, ["none", "agentcg"])
    assert [row[2] for row in found[3:6]] == ["–", "", "–"]
    assert [row[3] for row in found[3:5]] == ["1.00 [1.00, 1.00]", "–"]
