# SPDX-License-Identifier: Apache-2.0
"""The benchmark harness: its rounds, its result and its command line, without measuring anything."""

import io
import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

from benches import harness, main, report
from benches.harness import Arm, Bench, Measured, Part, Plan, Ratio

from agentcg.errors import AgentcgError, InvalidInput


def quiet(text):
    pass


def measure(*arms, n=4, **options):
    measured = Measured("here", "a machine", "a kernel")
    harness.measure(arms, Plan(n, **options), measured, quiet)
    return measured


def bench(*ratios):
    part = Part("here", lambda: (), vm=None, quick_sec=1)
    return Bench("b", "for a test", (part,), {"total_ms": "ms"}, ratios)


def samples(**arms):
    return Measured("here", "m", "k", {name: {"total_ms": values} for name, values in arms.items()})


# Rounds


def test_arms_are_interleaved_each_once_a_round_and_the_warm_up_is_not_counted():
    order = []

    def arm(name):
        return Arm(name, lambda stage: lambda: order.append(name) or {"total_ms": float(len(order))})

    measured = measure(arm("a"), arm("b"), arm("c"), n=20, warm_up=2)
    rounds = [tuple(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert len(rounds) == 22
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    neighbours = {pair for one in rounds[2:] for pair in pairwise(one)}
    assert len(neighbours) == 6  # No arm always follows the same other.
    assert min(measured.samples["a"]["total_ms"]) > 6
    assert {len(metrics["total_ms"]) for metrics in measured.samples.values()} == {20}
    assert list(measured.samples) == ["a", "b", "c"]


def test_failing_arms_are_reported_and_the_others_go_on():
    counter = iter(range(100))

    def later():
        if next(counter) == 3:
            raise OSError("the third time")
        return {"total_ms": 1.0}

    def at_once(stage):
        raise FileNotFoundError("not installed")

    measured = measure(
        Arm("good", lambda stage: lambda: {"total_ms": 2.0}),
        Arm("later", lambda stage: later),
        Arm("at-once", at_once),
        n=5,
        warm_up=1,
    )
    assert measured.samples == {"good": {"total_ms": [2.0] * 5}}
    assert measured.errors == {"later": "OSError: the third time", "at-once": "FileNotFoundError: not installed"}


def test_arm_whose_metrics_change_is_a_failed_one():
    results = iter([{"total_ms": 1.0}, {"other": 1.0}])
    measured = measure(Arm("a", lambda stage: lambda: next(results)), n=2, warm_up=0)
    assert measured.samples == {}
    assert measured.errors == {"a": "ValueError: returned ['other'] after ['total_ms']"}


def test_repetition_that_hangs_is_cut(monkeypatch):
    monkeypatch.setattr(harness, "REPETITION_SEC", 0.05)
    measured = measure(Arm("a", lambda stage: lambda: time.sleep(60) or {"total_ms": 1.0}), n=1)
    assert measured.errors == {"a": "TimeoutError: one repetition took longer than 0.05 s"}


def test_no_round_begins_after_the_time_is_spent():
    measured = measure(
        Arm("a", lambda stage: lambda: time.sleep(0.02) or {"total_ms": 1.0}), n=1000, warm_up=0, budget_sec=0.1
    )
    assert 1 <= len(measured.samples["a"]["total_ms"]) < 20


@pytest.mark.parametrize("trouble", [OSError, KeyboardInterrupt])
def test_what_was_started_is_ended_in_reverse_order_whatever_happens(trouble):
    ended = []

    def prepare(stage):
        stage.callback(ended.append, "first")
        stage.callback(ended.append, "second")

        def repeat():
            raise trouble("now")

        return repeat

    try:
        measure(Arm("a", prepare))
    except KeyboardInterrupt:
        assert trouble is KeyboardInterrupt
    assert ended == ["second", "first"]


def test_trouble_while_cleaning_up_is_a_note_and_loses_nothing():
    def prepare(stage):
        stage.callback(int, "not a number")
        return lambda: {"total_ms": 1.0}

    measured = measure(Arm("a", prepare), n=2)
    assert measured.samples["a"]["total_ms"] == [1.0, 1.0]
    assert measured.notes[0].startswith("cleaning up failed: ValueError")


def test_what_was_measured_is_kept_after_each_round():
    seen = []
    measured = Measured("here", "m", "k")
    arm = Arm("a", lambda stage: lambda: {"total_ms": 1.0})
    harness.measure([arm], Plan(3, warm_up=1), measured, quiet, lambda: seen.append(measured.rounds))
    assert seen == [1, 2, 3]


def test_rounds_of_a_second_machine_come_behind_those_of_the_first():
    first, second = samples(both=[1.0, 2.0], gone=[3.0, 4.0]), samples(both=[5.0])
    second.errors["gone"] = "OSError: gone"
    joined = first.joined(second)
    assert joined.samples == {"both": {"total_ms": [1.0, 2.0, 5.0]}, "gone": {"total_ms": [3.0, 4.0, None]}}
    assert joined.errors == {"gone": "OSError: gone"}


# The result


def test_result_has_medians_intervals_and_ratios_with_their_goals():
    measured = samples(fast=[1.0] * 5, slow=[4.0] * 5)
    outcome = report.result(
        bench(
            Ratio("too_slow", "slow", "fast", goal=3.0),
            Ratio("faster", "slow", "fast", goal=3.0, better="higher"),
            Ratio("added", "slow", "fast", difference=True),
        ),
        [measured],
    )
    assert outcome["arms"]["slow"] == {"n": 5, "total_ms": {"p50": 4.0, "lo": 4.0, "hi": 4.0, "unit": "ms"}}
    exact = {"value": 4.0, "lo": 4.0, "hi": 4.0}
    assert outcome["ratios"] == {
        "too_slow": {**exact, "goal": 3.0, "better": "lower", "holds": False},
        "faster": {**exact, "goal": 3.0, "better": "higher", "holds": True},
        "added": {"value": 3.0, "lo": 3.0, "hi": 3.0, "goal": None, "better": "lower", "unit": "ms", "holds": None},
    }
    assert (outcome["bench"], outcome["machine"], outcome["kernel"]) == ("b", "m", "k")


def test_rounds_that_are_not_alike_are_compared_one_by_one():
    outcome = report.result(
        bench(Ratio("mean", "a", "b", summary="geometric"), Ratio("worst", "a", "b", summary="max", goal=2.0)),
        [samples(a=[1.0, 40.0, None], b=[1.0, 10.0, 5.0])],
    )
    assert outcome["ratios"]["mean"]["value"] == 2.0
    assert (outcome["ratios"]["worst"]["value"], outcome["ratios"]["worst"]["holds"]) == (4.0, False)


def test_rounds_without_a_value_count_for_neither_side():
    outcome = report.result(
        bench(
            Ratio("quotient", "a", "b"),
            Ratio("share", "a", summary="mean", goal=4.0, better="higher"),
            Ratio("removed", "a", "b", base="c"),
            Ratio("never", "a", "none"),
        ),
        [samples(a=[2.0, None, 4.0], b=[1.0, 7.0, 10.0], c=[0.0, 0.0, None], none=[None] * 3)],
    )
    values = {name: ratio["value"] for name, ratio in outcome["ratios"].items()}
    assert values == {"quotient": pytest.approx(3 / 5.5, abs=1e-4), "share": 3.0, "removed": -1.0, "never": None}
    assert outcome["ratios"]["share"]["unit"] == "ms"
    assert outcome["ratios"]["share"]["holds"] is False
    assert outcome["arms"]["a"]["total_ms"]["n"] == 2
    assert outcome["arms"]["none"] == {"n": 3}


def test_ratio_with_a_failed_arm_is_not_known():
    measured = samples(fast=[1.0])
    measured.errors["slow"] = "OSError: gone"
    outcome = report.result(bench(Ratio("r", "slow", "fast", goal=3.0)), [measured])
    assert outcome["arms"]["slow"] == {"n": 0, "error": "OSError: gone"}
    assert outcome["ratios"]["r"]["value"] is outcome["ratios"]["r"]["holds"] is None


def test_table_says_what_failed_and_what_does_not_hold():
    measured = samples(fast=[1.0], slow=[4.0])
    measured.errors["other"] = "OSError: [Errno 2] gone"
    measured.notes.append("no [memory] controller")
    text = io.StringIO()
    report.print_table(report.result(bench(Ratio("r", "slow", "fast", goal=3.0)), [measured]), Console(file=text))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert "slow total_ms 4.00 ms 4.00 to 4.00 1" in lines
    assert "r 4.00 4.00 to 4.00 ≤ 3 NO" in lines
    assert "other failed: OSError: [Errno 2] gone" in lines
    assert "note: no [memory] controller" in lines


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a bench"),
        (["nosuch"], "invalid choice"),
        (["calls", "--n", "0"], "not a positive number"),
        (["calls", "--quick", "--save"], "--save keeps no quick results"),
        (["calls", "--part", "host"], "--part and --raw go together"),
    ],
)
def test_wrong_command_lines(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main.parse(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_every_bench_is_found_and_compares_arms_that_it_has():
    for name in main.BENCHES:
        found = main.find(name)
        assert found.name == name
        arms = [arm.name for part in found.parts for arm in part.arms()]
        assert len(arms) == len(set(arms))
        assert {arm for ratio in found.ratios for arm in ratio.arms} <= set(arms)
        assert {ratio.metric for ratio in found.ratios} <= set(found.units)
        assert sum(part.quick_sec for part in found.parts) <= 60


def parts_of(*arguments):
    options = main.parse(["calls", *arguments])
    parts = (
        Part("x", lambda: [Arm("a.x", None), Arm("b.x", None)], None, quick_sec=9, quick_arms=("a.x",)),
        Part("y", lambda: [Arm("a.y", None)], None, quick_sec=0),
    )
    found = main.chosen_parts(Bench("calls", "", parts, {}, ()), options)
    return {part.name: [arm.name for arm in main.chosen_arms(part, options)] for part in found}


def test_parts_and_arms_are_chosen_by_name():
    assert parts_of() == {"x": ["a.x", "b.x"], "y": ["a.y"]}
    assert parts_of("--quick") == {"x": ["a.x"]}
    assert parts_of("--parts", "y", "--quick") == {"y": ["a.y"]}
    assert parts_of("--arms", "a") == {"x": ["a.x"], "y": ["a.y"]}
    assert parts_of("--arms", "b.x,a.y") == {"x": ["b.x"], "y": ["a.y"]}
    assert parts_of("--arms", "b") == {"x": ["b.x"]}
    with pytest.raises(InvalidInput, match=r"--parts: there is no 'z'.*there are x, y"):
        parts_of("--parts", "x,z")
    with pytest.raises(InvalidInput, match=r"--arms: no part has one of them.*there are a.x, b.x, a.y"):
        parts_of("--arms", "c")


def dying_machines(monkeypatch, tmp_path, *rounds):
    """Each machine completes so many rounds, and all but the last then die; returns the commands they were given."""
    commands = []
    left = list(rounds)

    def run_in_vm(options, command, timeout_sec):
        commands.append(command)
        done = left.pop(0)
        if done:
            raw = tmp_path / command[command.index("--raw") + 1]
            raw.write_text(json.dumps(vars(samples(a=[float(len(commands))] * done))))
        if left:
            raise AgentcgError("the part in the VM ended with status 1")

    monkeypatch.setattr(main.place, "CHECKOUT", tmp_path)
    monkeypatch.setattr(main, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(main.place, "run_in_vm", run_in_vm)
    return commands


def test_a_machine_that_dies_is_booted_again_for_the_rounds_that_are_left(monkeypatch, tmp_path):
    commands = dying_machines(monkeypatch, tmp_path, 2, 3)
    options = main.parse(["calls", "--n", "5"])
    part = Part("here", lambda: (), vm=(), quick_sec=1)
    measured = main._measure_in_vm(bench(), part, Plan(5), options)
    assert measured.samples["a"]["total_ms"] == [1.0, 1.0, 2.0, 2.0, 2.0]
    assert measured.notes == ["in the part here the machine died after 2 rounds"]
    assert [command[command.index("--n") + 1] for command in commands] == ["5", "3"]
    assert commands[1][commands[1].index("--first") + 1] == "2"


def test_a_machine_that_dies_at_once_is_an_error(monkeypatch, tmp_path):
    commands = dying_machines(monkeypatch, tmp_path, 0, 1)
    with pytest.raises(AgentcgError, match="ended with status 1"):
        main._measure_in_vm(bench(), Part("here", lambda: (), vm=(), quick_sec=1), Plan(5), main.parse(["calls"]))
    assert len(commands) == 1


def test_json_is_one_object_and_goals_do_not_change_the_status(monkeypatch, capsys, tmp_path):
    slow = Arm("slow", lambda stage: lambda: {"total_ms": 9.0})
    fast = Arm("fast", lambda stage: lambda: {"total_ms": 1.0})
    part = Part("here", lambda: (slow, fast), vm=None, quick_sec=1)
    made = Bench("calls", "", (part,), {"total_ms": "ms"}, (Ratio("r", "slow", "fast", goal=3.0),))
    monkeypatch.setattr(main, "find", lambda name: made)
    monkeypatch.setattr(main, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(main.signal, "signal", lambda number, handler: None)
    assert main.main(["calls", "--json", "--n", "3", "--save"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["ratios"]["r"]["holds"] is False
    assert json.loads((tmp_path / "results/calls.json").read_text()) == outcome
    # What was left out is said, and does not take the place of the whole result.
    assert main.main(["calls", "--json", "--n", "3", "--save", "--arms", "fast"]) == 0
    fewer = json.loads(capsys.readouterr().out)
    assert fewer["notes"][0] == "not all of the bench, only: fast"
    assert json.loads((tmp_path / "results/calls.json").read_text()) == outcome
    assert json.loads((tmp_path / "results/calls-here.json").read_text()) == fewer
