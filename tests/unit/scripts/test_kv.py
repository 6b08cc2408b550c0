# SPDX-License-Identifier: Apache-2.0
"""The kv bench: what it counts, on sessions that are made up."""

from pathlib import Path

import pytest
from benches import kv, kv_cells
from benches.harness import Part, Stage
from benches.kv import UNITS
from benches.kv_cells import CELLS, SEEDS, Cell

from agentcg.errors import InvalidInput
from agentcg.kv.simulation.script import Script, ToolCall, Turn


def script(name: str, turns: int) -> Script:
    return Script(
        name,
        tuple(
            Turn(13_000 + 900 * k, 200, 12_000 + 900 * k if k else 0, (ToolCall("bash", 2.0, 1.0),))
            for k in range(turns)
        ),
    )


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = ([script("chosen", 3)], [script("reported", 6), script("too_large", 400)])
    monkeypatch.setattr(kv_cells, "_scripts", lambda data_set: halves)
    for remembers in (kv_cells.capacity, kv.measure_run, kv._best_ttl, kv._alone_sec):
        remembers.cache_clear()


@pytest.mark.parametrize(
    "part", [part for part in kv.BENCH.parts if part.name not in kv.CAPACITIES], ids=lambda part: part.name
)
def test_every_arm_counts_the_same_and_all_of_it(part: Part) -> None:
    for arm in part.arms():
        found = arm.prepare(Stage())()
        assert found.keys() == UNITS.keys() - {"capacity_share"}
        assert found["mean_jct_sec"] > 0
        assert found["uncontended_jct_sec"] is None or found["contended_jct_sec"] is None


def test_every_ratio_has_its_arms() -> None:
    there = {arm.name for part in kv.BENCH.parts for arm in part.arms()}
    assert {name for ratio in kv.BENCH.ratios for name in ratio.arms} <= there


def test_there_are_as_many_cpus_as_the_load_says() -> None:
    # The one session that fits needs 6 s.
    assert Cell("haiku", 130_000, cpu_load=1.2).machine(per_sec=0.5).cpus == pytest.approx(2.5)


def test_what_is_reported_is_not_what_is_chosen_on() -> None:
    cell = CELLS[0]
    assert [each.name for each in cell.scripts] == ["reported"]
    assert [each.name for each in Cell(cell.data_set, cell.pool_tokens, reported=False).scripts] == ["chosen"]


def test_a_round_is_the_same_sessions_for_every_arm() -> None:
    first, second = (kv.measure_run(kv.ARMS[arm], "low", CELLS[0], 1) for arm in ("lru", "soft_pins"))
    assert first.completion_sec.keys() == second.completion_sec.keys()
    assert kv.BENCH.n == SEEDS * len(CELLS)


def test_the_capacity_is_where_sessions_take_twice_as_long() -> None:
    share = kv._capacity_share(kv.ARMS["soft_pins"], "knee", CELLS[0], 1)["capacity_share"]
    assert share is not None
    fine, alone = (CELLS[0], "knee"), kv._alone_sec(CELLS[0], 1)
    rate = kv_cells.capacity(CELLS[0])
    assert kv_cells.mean(kv.ARMS["soft_pins"](*fine, share * rate, 1)) <= kv.FINE * alone


def test_without_recordings_it_says_where_they_belong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("AGENTCG_TRACES", str(tmp_path))
    kv_cells._scripts.cache_clear()
    with pytest.raises(InvalidInput, match="AGENTCG_TRACES"):
        kv_cells._scripts("haiku")
