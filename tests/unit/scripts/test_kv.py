# SPDX-License-Identifier: Apache-2.0
"""The kv bench: what it counts, on sessions that are made up."""

from pathlib import Path

import pytest
from benches import kv
from benches.harness import Stage
from benches.kv import CELLS, SEEDS, UNITS, Cell

from agentcg.errors import InvalidInput
from agentcg.kv.simulation.script import Script, ToolCall, Turn


def script(name: str, turns: int) -> Script:
    return Script(
        name,
        tuple(
            Turn(13_000 + 900 * k, 200, 12_000 + 900 * k if k else 0, (ToolCall("bash", 2.0),)) for k in range(turns)
        ),
    )


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = ([script("chosen", 3)], [script("reported", 6), script("too_large", 400)])
    monkeypatch.setattr(kv, "_scripts", lambda data_set: halves)
    for remembers in (kv.capacity, kv.measure_run, kv._best_ttl, kv._alone_sec):
        remembers.cache_clear()


def test_every_arm_counts_the_same_and_all_of_it() -> None:
    for part in kv.BENCH.parts[:1]:
        for arm in part.arms():
            found = arm.prepare(Stage())()
            assert found.keys() == UNITS.keys() - {"capacity_share"}
            assert found["mean_jct_sec"] > 0
            assert found["uncontended_jct_sec"] is None or found["contended_jct_sec"] is None


def test_what_is_reported_is_not_what_is_chosen_on() -> None:
    cell = CELLS[0]
    assert [each.name for each in cell.scripts] == ["reported"]
    assert [each.name for each in Cell(cell.data_set, cell.pool_tokens, reported=False).scripts] == ["chosen"]


def test_a_round_is_the_same_sessions_for_every_arm() -> None:
    first, second = (kv.measure_run(arm, "low", CELLS[0], 1) for arm in ("lru", "soft_pins"))
    assert first.completion_sec.keys() == second.completion_sec.keys()
    assert kv.BENCH.n == SEEDS * len(CELLS)


def test_the_capacity_is_where_sessions_take_twice_as_long() -> None:
    share = kv._capacity_share("soft_pins", CELLS[0], 1)["capacity_share"]
    assert share is not None
    fine, alone = (CELLS[0], "knee"), kv._alone_sec(CELLS[0], 1)
    rate = kv.capacity(CELLS[0])
    assert kv._mean(kv.ARMS["soft_pins"](*fine, share * rate, 1)) <= kv.FINE * alone


def test_without_recordings_it_says_where_they_belong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("AGENTCG_TRACES", str(tmp_path))
    kv._scripts.cache_clear()
    with pytest.raises(InvalidInput, match="AGENTCG_TRACES"):
        kv._scripts("haiku")
