# SPDX-License-Identifier: Apache-2.0
"""The isolation bench without a machine to enforce on: its numbers, its admission, its recordings."""

import asyncio
from pathlib import Path

import pytest
from benches import isolation, isolation_arms, isolation_density, isolation_sessions, isolation_swap
from benches.harness import Stage
from benches.isolation_arms import AdmissionArm
from benches.isolation_metrics import UNITS, metrics
from benches.isolation_sessions import FIRST, MB, TRIPLES, import_recordings, limit_of, load_plans

from agentcg.errors import InvalidInput, Unsupported
from agentcg.policy.load import load
from agentcg.replay import plain_arms
from agentcg.replay.arms import Scene
from agentcg.replay.plan import make_plan, protect
from agentcg.replay.result import ArmResult, CallResult, SessionResult, latency
from agentcg.trace.format import write
from agentcg.trace.model import RecordedCall, Recording, Sample

# The numbers


def session(name, state="finished", *, protected=False, failed=(), sec=6.0, growth=(0.3, 0.1), grown=2 << 20):
    calls = [CallResult(f"c{number}", "pytest", outcome) for number, outcome in enumerate(failed)]
    return SessionResult(
        name=name,
        recording="r",
        protected=protected,
        reserve=1 if protected else None,
        state=state,
        completion_sec=sec,
        recorded_sec=4.0,
        calls_recorded=3,
        calls_started=3,
        failed=calls,
        growth=latency(growth),
        boundaries=latency([0.01, 0.03]),
        oom_kills_agent=0,
        oom_kills_call=0,
        grown=grown,
    )


def result(*sessions):
    return ArmResult("a", 1 << 30, 10.0, wall_sec=20.0, sessions=list(sessions), memory_peak=3 << 20)


def test_metrics_of_a_run_in_which_all_went_well():
    found = metrics(
        result(session("high", protected=True), session("o1", sec=8.0), session("o2", sec=12.0)),
        {"controller_cpu_sec": 5.0, "overshoot_mib": 0.5},
    )
    assert found.keys() == UNITS.keys()
    assert found["high_growth_ms"] == pytest.approx(400)
    assert found["high_growth_ms_per_mib"] == pytest.approx(200)
    assert (found["high_completion_sec"], found["others_completion_sec"], found["others_last_sec"]) == (6, 10, 12)
    assert found["high_boundaries_ms"] == pytest.approx(40)
    assert found["high_working_sec"] == pytest.approx(5.96)
    assert (found["survivors"], found["lost_somebody"], found["calls_failed"]) == (1, 0, 0)
    assert (found["peak_mib"], found["overshoot_mib"], found["controller_cpu_share"]) == (3, 0.5, 0.25)


def test_session_that_lost_a_call_finished_but_did_not_survive():
    found = metrics(result(session("high", protected=True), session("o1", failed=["oom_killed"]), session("o2")), {})
    assert found["survivors"] == pytest.approx(2 / 3)
    assert (found["lost_somebody"], found["agents_died"], found["calls_failed"]) == (1, 0, 1)
    assert found["others_completion_sec"] == 6


def test_times_of_those_who_died_are_not_there_but_what_a_mib_took_is():
    found = metrics(result(session("high", "died", protected=True, failed=["lost"]), session("o1", "died")), {})
    assert found["high_growth_ms"] is found["high_completion_sec"] is found["others_last_sec"] is None
    assert found["high_growth_ms_per_mib"] == pytest.approx(200)
    assert (found["survivors"], found["agents_died"], found["calls_failed"]) == (0, 2, 0)


# Admission


def plan(name, peak, *, protected=False):
    made = make_plan(Recording("r", 0.0, (), (Sample(0, peak, 0), Sample(1, peak, 0))), name)
    return protect(made, peak) if protected else made


def test_admission_starts_an_other_when_there_is_room_for_its_peak(monkeypatch):
    class Place:
        agent = None

        async def close(self):
            pass

    async def open_plain(arm, plan):
        opened.append(plan.name)
        return Place()

    monkeypatch.setattr(plain_arms.PlainArm, "open", open_plain)
    opened = []
    plans = [plan("high", 400 * MB, protected=True), plan("o1", 300 * MB), plan("o2", 300 * MB)]
    arm = AdmissionArm(Scene(None, "", 1000 * MB, plans))

    async def run():
        high, first = await arm.open(plans[0]), await arm.open(plans[1])
        second = asyncio.create_task(arm.open(plans[2]))
        await asyncio.sleep(0)
        assert opened == ["high", "o1"]
        await first.close()
        await second
        assert opened == ["high", "o1", "o2"]
        await high.close()

    asyncio.run(asyncio.wait_for(run(), 5))


# The recordings


def test_missing_recordings_are_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(isolation_sessions, "IMPORTED", tmp_path / "imported")
    monkeypatch.setattr(isolation_sessions, "load_path", lambda: "")
    monkeypatch.setenv("AGENTCG_TRACES", str(tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match=r"AGENTCG_TRACES: there is no .*nowhere.*set it to a copy"):
        import_recordings()


def test_plans_are_one_protected_and_others_with_an_agent_besides(monkeypatch, tmp_path):
    monkeypatch.setattr(isolation_sessions, "IMPORTED", tmp_path)
    for task in (FIRST.protected, FIRST.other):
        calls = (RecordedCall("c", "Bash", "true", 1.0, 2.0),)
        recording = Recording(task, 0.0, calls, (Sample(0, 50 * MB, 0), Sample(9, 50 * MB, 0)))
        write(recording, tmp_path / f"all_images_haiku-{task}-attempt_1.jsonl")
    plans = load_plans(FIRST)
    assert [(one.name, one.recording, one.peak) for one in plans] == [
        ("high", FIRST.protected, 150 * MB),
        ("other-1", FIRST.other, 150 * MB),
        ("other-2", FIRST.other, 150 * MB),
    ]
    assert plans[0].reserve > 150 * MB
    assert plans[1].reserve is plans[2].reserve is None
    assert limit_of(plans) == pytest.approx(450 * MB * 1100 / 1232, abs=1)


def test_triples_have_nothing_in_common():
    tasks = [task for triple in (FIRST, *TRIPLES) for task in (triple.protected, triple.other)]
    assert len(tasks) == len(set(tasks))


def test_how_long_a_freeze_took_is_read_from_the_daemons_log(monkeypatch, tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "INFO agentcg.control: froze root/other-1 in 1.5 ms\nINFO x: thawed root/other-1\nINFO agentcg.control: froze "
        "root/other-2/c-1 in 12 ms\n"
    )
    arm = isolation_arms.DaemonArm(Scene(None, "", 1, []))
    arm._log = Path(log)
    monkeypatch.setattr(arm, "cpu_sec", lambda: 0.25)
    found = arm.figures()
    assert (found["freeze_ms"], found["freezes"], found["controller_cpu_sec"]) == (6.75, 2, 0.25)


# Swap


def test_the_policy_of_the_arm_that_swaps_gives_as_much_as_the_others_have():
    policy = load(isolation_swap.POLICY)
    assert {policy.tenant.swap, policy.session.swap} == {isolation_swap.SWAP}
    assert {each.swap_max for each in policy.classes.values()} == {isolation_swap.SWAP}


def test_who_swaps_pays_for_what_zram_takes(cgroups, root):
    async def limits(arm):
        async with arm:
            return [cgroups.text("none", name) for name in ("memory.max", "memory.swap.max")]

    scene = Scene(root.node, root.directory, 1100 * MB, [])
    plain, swaps = isolation_arms.PlainArm(scene), isolation_swap.swapping(isolation_arms.PlainArm)(scene)
    assert asyncio.run(limits(plain)) == [str(1100 * MB), "0"]
    assert root.node.remove_tree("none")
    assert asyncio.run(limits(swaps)) == [str(1000 * MB), str(275 * MB)]
    assert root.node.remove_tree("none")


def test_what_zram_took_is_read_from_the_kernels_own_count(tmp_path):
    (tmp_path / "comp_algorithm").write_text("lzo [lzo-rle] lz4 zstd\n")
    (tmp_path / "mm_stat").write_text(" 4096000 1365000 1400832 100000000 2400256 0 0 0 0\n")
    zram = isolation_swap.Zram(tmp_path)
    zram.forget_peak()
    assert (zram.algorithm, zram.peak(), (tmp_path / "mem_used_max").read_text()) == ("lzo-rle", 2_400_256, "0")


def test_no_machine_but_a_virtual_one_is_given_swap(monkeypatch):
    monkeypatch.delenv("AGENTCG_VM", raising=False)
    with Stage() as stage, pytest.raises(Unsupported, match=r"to a virtual one only.*scripts/vm run"):
        isolation_swap.zram_of(stage)


def test_quick_measures_arms_that_make_a_ratio():
    quick = {arm for part in isolation.BENCH.parts if part.quick_sec for arm in part.quick_arms}
    assert any(len(ratio.arms) > 1 and quick.issuperset(ratio.arms) for ratio in isolation.BENCH.ratios)


@pytest.mark.parametrize(
    ("took", "lost_at", "wanted"),
    [
        ([10.0, 10.5, 10.9, 12.0], 9, 2.0),  # With three others it takes more than 1.1 of alone.
        ([10.0, 12.0], 9, 0.0),  # Not even one: a result, and no missing one.
        ([10.0, 10.0, 10.0], 2, 1.0),
        ([10.0] * 6, 9, 4.0),
    ],
)
def test_density_counts_others_until_the_protected_one_is_slower_or_somebody_is_lost(
    monkeypatch, took, lost_at, wanted
):
    def replay(rig, name, build, plans, limit, speed):
        others = len(plans) - 1
        lost = float(others >= lost_at)
        return {"high_completion_sec": took[others], "lost_somebody": lost, "others_last_sec": 20.0}

    monkeypatch.setattr(isolation_density, "rig_of", lambda stage: None)
    monkeypatch.setattr(isolation_density, "load_plans", lambda triple, others: [None] * (1 + others))
    monkeypatch.setattr(isolation_density, "replay", replay)
    assert isolation_density.density_arms()[1].prepare(None)()["others_beside"] == wanted
