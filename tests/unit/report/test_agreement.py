# SPDX-License-Identifier: Apache-2.0
"""A live run and its simulation, held against each other."""

from agentcg.replay.events import CallBegan, Killed, Throttled
from agentcg.replay.run_folder import FinishedArm, open_run, read_run
from agentcg.report.agreement import agreement
from agentcg.report.build import build
from agentcg.report.groups import Group


def write(path, describe, arm, *, mode, factor=1.0, stops=(), once=False, died=(), **changes):
    """Three rounds of the arms none and agentcg; in agentcg, ``stops`` happen in all but the last, or in the first."""
    folder = open_run(path, describe(mode=mode, rounds=3, **changes))
    for number in range(3):
        for name in ("none", "agentcg"):
            result = arm(name, 10.0 * factor, [20.0, 30.0 * factor], died=died if name == "none" else ())
            told = [CallBegan(0.0, "b", "c1", "Bash", "x")]
            told += list(stops) if name == "agentcg" and number < (1 if once else 2) else []
            folder.append(FinishedArm(number, name, result, 0.1), told)
    return read_run(path)


def pair(tmp_path, describe, arm, *, live=None, simulated=None):
    one = write(tmp_path / "live", describe, arm, mode="live", **(live or {}))
    other = write(tmp_path / "model", describe, arm, mode="simulated", **(simulated or {}))
    return Group([one]), Group([other])


def test_what_agrees_is_said_to(tmp_path, describe, arm):
    live, model = pair(tmp_path, describe, arm, simulated={"factor": 1.1})
    found = agreement(model, live)
    assert found.title == "model against live"
    assert found.sentence == (
        "6 of 6 completion times agree within 15 %; the farthest is a under none, +10%. The same calls were stopped."
    )
    assert found.table.rows[0] == ("none", "a", "10.0 s, 3 of 3 finished", "11.0 s, 3 of 3 finished", "+10%", "–", "–")
    assert [row[0] for row in found.table.rows] == ["none", "", "", "agentcg", "", ""]


def test_what_does_not_is_named(tmp_path, describe, arm):
    live = {"stops": [Throttled(1.0, "b", "c1", "")], "died": ("b",)}
    model = {"stops": [Killed(1.0, "b", "c1", ""), Killed(2.0, "c", None, "")], "factor": 0.8}
    found = agreement(*pair(tmp_path, describe, arm, live=live, simulated=model))
    assert found.sentence.startswith("1 of 5 completion times agree within 15 %; the farthest is a under none, -20%.")
    assert found.sentence.endswith("Under “agentcg” other calls were throttled or killed.")
    rows = {(row[0], row[1]): row[2:] for row in found.table.rows}
    assert rows["none", "a"][2] == "-20% (beyond 15 %)"
    assert rows["", "b"][3:] == ("c1 throttled", "c1 killed")
    assert [row[6] for row in found.table.rows if row[1] == "c"] == ["–", "the agent killed"]
    dead = next(row for row in found.table.rows if row[1] == "b")
    assert dead[2:5] == ("0 of 3 finished", "20.0 s, 3 of 3 finished", "–")


def test_what_happens_in_fewer_than_half_of_the_rounds_is_chance(tmp_path, describe, arm):
    stops = [Throttled(1.0, "b", "c1", "")]
    often, model = pair(tmp_path, describe, arm, live={"stops": stops})
    once = Group([write(tmp_path / "once", describe, arm, mode="live", stops=stops, once=True)])
    assert "Under “agentcg” other calls" in agreement(often, model).sentence
    assert "The same calls were stopped." in agreement(once, model).sentence


def test_nobody_finished_in_both(tmp_path, describe, arm):
    everybody = {"died": ("a", "b", "c")}
    live, model = pair(tmp_path, describe, arm, live=everybody)
    for each in live.results:
        for session in each["agentcg"].result.sessions:
            session.state = "timed_out"
    assert "no times to compare" in agreement(live, model).sentence


def test_other_pairs_are_not_compared(tmp_path, describe, arm):
    live, model = pair(tmp_path, describe, arm)
    slower = Group([write(tmp_path / "slower", describe, arm, mode="simulated", speed=5.0)])
    again = Group([write(tmp_path / "again", describe, arm, mode="live", seed=9)])
    drawn = Group([write(tmp_path / "drawn", describe, arm, mode="simulated", sessions=None)])
    assert [agreement(live, other) for other in (slower, again, drawn)] == [None, None, None]
    assert agreement(live, model) is not None


def test_the_page_has_it_instead_of_a_note(tmp_path, describe, arm):
    live, model = pair(tmp_path, describe, arm)
    found = build([live.runs[0], model.runs[0]])
    assert [pair.title for pair in found.agreements] == ["model against live"]
    assert found.notes == []


def test_an_agent_that_is_slowed_down_is_told_by_the_model_alone(tmp_path, describe, arm):
    live, model = pair(tmp_path, describe, arm, simulated={"stops": [Throttled(1.0, "b", None, "")]})
    assert "The same calls were stopped." in agreement(live, model).sentence
