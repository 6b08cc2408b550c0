# SPDX-License-Identifier: Apache-2.0
"""What a server's turns came to, in the report."""

from agentcg.replay.result import TurnsResult
from agentcg.replay.run_folder import FinishedArm, open_run, read_run
from agentcg.report.build import build
from agentcg.report.page import render
from agentcg.report.turns import turns_table


def served(result, *turns):
    for session, each in zip(result.sessions, turns, strict=True):
        session.turns = TurnsResult(*each)
    return result


def test_arms_have_their_times_and_what_the_cache_was_worth(arm):
    rounds = [
        {
            "none": served(arm("none", 9, [9]), (2, 4.0, 6.0, 1000, 100), (6, 2.0, 4.0, 3000, 900)),
            "agentcg": served(arm("agentcg", 9, [9]), (2, 1.0, 1.0, 1000, 900), (6, 3.0, 4.0, 3000, None)),
        }
    ] * 2
    table = turns_table(rounds, ["none", "agentcg"])
    assert table.rows == (
        ("none", "16", "2.50 [2.50, 2.50]", "5.00 [5.00, 5.00]", "8,000", "2,000 (25%)", "6,000 (75%)"),
        ("agentcg", "16", "2.50 [2.50, 2.50]", "2.50 [2.50, 2.50]", "8,000", "–", "–"),
    )
    assert len(table.columns) == len(table.rows[0])


def test_without_a_server_there_is_nothing_of_it(arm):
    assert turns_table([{"none": arm("none", 9, [9])}], ["none"]) is None
    lost = served(arm("none", 9, [9]), (0, None, None, 0, 0), (0, None, None, 0, 0))
    assert turns_table([{"none": lost}], ["none"]).rows == (("none", "0", "–", "–", "0", "–", "–"),)


def test_the_page_has_them_and_a_served_run_is_no_live_one(arm, describe, make_run, tmp_path):
    folder = open_run(tmp_path / "served", describe(mode="served", arms=["none"], rounds=1))
    result = served(arm("none", 9, [9, 9]), *[(2, 4.0, 6.0, 1000, 100)] * 3)
    folder.append(FinishedArm(0, "none", result, 9.0), [])
    report = build([read_run(tmp_path / "served"), read_run(make_run(tmp_path / "simulated"))])
    assert report.agreements == []
    assert "mode: served and simulated" in report.notes[0]
    page = render(report, "")
    assert page.count("Turns of the language model") == 1
    assert "300 (10%)" in page
