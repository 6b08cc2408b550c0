# SPDX-License-Identifier: Apache-2.0
"""From snapshots to rows."""

import pytest

from agentcg.api.types import Budget, Intent, KvSession, Limits, SessionInfo, SnapshotPart, ToolCallInfo
from agentcg.top.rows import Row, rows_of

M = 1 << 20


def session(name: str, **fields: object) -> SessionInfo:
    given = {"ownerUid": 0, "opened": 0.0, "budget": Budget(), "protected": False, "leased": False, "calls": 0}
    given["transparent"] = False
    return SessionInfo(session=name, **(given | fields))  # type: ignore[arg-type]


def call(name: str, **fields: object) -> ToolCallInfo:
    given = {"ownerUid": 0, "started": 0.0, "tool": "", "command": "", "callClass": "default", "leased": True}
    return ToolCallInfo(call=name, **(given | {"intent": Intent(), "limits": Limits(100, 100)} | fields))  # type: ignore[arg-type]


def snapshot(*infos: SessionInfo | ToolCallInfo, time: float = 100.0) -> SnapshotPart:
    sessions = [info for info in infos if isinstance(info, SessionInfo)]
    return SnapshotPart(time, None, sessions, [info for info in infos if isinstance(info, ToolCallInfo)], [])


def names(rows: list[Row]) -> list[str]:
    return [row.name for row in rows]


def test_what_is_frozen_by_hand_is_shown_and_found_so() -> None:
    now = snapshot(
        session("u/a", state="frozen", frozenByHand=True),
        call("u/a/x", state="frozen"),
        call("u/a/y", state="frozen", frozenByHand=True),
    )
    rows = rows_of(now)
    assert [(row.name, row.state, row.by_hand) for row in rows[1:]] == [
        ("u/a", "by hand", True),
        ("u/a/y", "by hand", True),
        ("u/a/x", "frozen", False),
    ]
    assert names(rows_of(now, wanted="by hand")) == ["u", "u/a", "u/a/y"]


HOST = snapshot(
    session("u/a", memoryCurrent=10 * M, cpuSec=50.0, opened=90.0, calls=2),
    session("u/b", memoryCurrent=30 * M, cpuSec=1.0, opened=10.0),
    session("v/c", memoryCurrent=20 * M, cpuSec=90.0, opened=50.0, calls=1),
    call("u/a/x", memoryCurrent=1 * M, cpuSec=4.0, started=91.0, command="pytest -x", tool="Bash", state="running"),
    call("u/a/y", memoryCurrent=5 * M, cpuSec=1.0, started=95.0, command="make", callClass="build", state="frozen"),
    call("v/c/z", memoryCurrent=2 * M, cpuSec=9.0, started=60.0, command="PyTest tests", state="held"),
)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("memory", ["u", "u/b", "u/a", "u/a/y", "u/a/x", "v", "v/c", "v/c/z"]),
        ("cpu", ["u", "u/a", "u/a/x", "u/a/y", "u/b", "v", "v/c", "v/c/z"]),
        ("time", ["u", "u/b", "u/a", "u/a/x", "u/a/y", "v", "v/c", "v/c/z"]),
    ],
)
def test_each_level_is_sorted_in_its_parent(sort, expected: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert names(rows_of(HOST, sort=sort)) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("pytest", ["v", "v/c", "v/c/z", "u", "u/a", "u/a/x"]),
        ("BUILD", ["u", "u/a", "u/a/y"]),
        ("held", ["v", "v/c", "v/c/z"]),
        ("u/b", ["u", "u/b"]),
        ("u/a", ["u", "u/a", "u/a/y", "u/a/x"]),
        ("bash", ["u", "u/a", "u/a/x"]),
        ("nothing like it", []),
    ],
)
def test_filter(wanted: str, expected: list[str]) -> None:
    assert names(rows_of(HOST, wanted=wanted)) == expected


def test_a_tenant_is_the_sum_of_its_sessions() -> None:
    tenant = rows_of(HOST)[0]
    assert tenant == Row(
        "tenant",
        "u",
        "2 sessions, 2 calls",
        memory=40 * M,
        cpu_percent=pytest.approx(500 + 100 / 90),
        elapsed_sec=90.0,
    )


def test_cpu_is_of_the_time_between_two_looks() -> None:
    def percent(before: SnapshotPart | None, used: float | None) -> float | None:
        now = snapshot(session("u/a"), call("u/a/x", cpuSec=used, started=80.0))
        return rows_of(now, before)[-1].cpu_percent

    earlier = snapshot(session("u/a"), call("u/a/x", cpuSec=9.0, started=80.0), time=98.0)
    assert percent(earlier, 12.0) == pytest.approx(150)
    assert percent(None, 12.0) == pytest.approx(60)
    assert percent(snapshot(time=98.0), 12.0) == pytest.approx(60)
    assert percent(earlier, 2.0) == pytest.approx(10)  # The name was taken again.
    assert percent(earlier, None) is None
    assert percent(snapshot(call("u/a/x", cpuSec=9.0), time=100.0), 9.0) == 0


def test_a_call() -> None:
    limits = Limits(100, 100, memoryHigh=7 * M, memoryMax=8 * M)
    fields = {"limits": limits, "started": 40.0, "stoppedSec": 15.0, "durationPredictedSec": 30.0}
    found = rows_of(
        snapshot(session("u/a"), call("u/a/x", tool="Bash", state="throttled", memoryPressure=2.5, **fields))
    )
    assert found[-1] == Row(
        "call",
        "u/a/x",
        "Bash",
        high=7 * M,
        maximum=8 * M,
        pressure=2.5,
        elapsed_sec=45.0,
        predicted_sec=30.0,
        call_class="default",
        state="throttled",
    )


def test_a_session() -> None:
    fields = {"memoryHigh": 3 * M, "budget": Budget(memoryMax=4 * M), "memoryPressure": 1.0, "state": "frozen"}
    found = rows_of(snapshot(session("u/a", calls=1, protected=True, opened=99.0, **fields)))
    assert found[-1] == Row(
        "session",
        "u/a",
        "1 call, protected",
        high=3 * M,
        maximum=4 * M,
        pressure=1.0,
        elapsed_sec=1.0,
        state="frozen",
    )


def test_what_sessions_have_cached_at_llm_servers() -> None:
    now = snapshot(session("u/a"), session("u/b"), session("u/c"), call("u/a/x"))
    assert [(row.kv_cache, row.kv_pinned) for row in rows_of(now)] == [(None, False)] * 5
    now.kvSessions = [
        KvSession("u/a", 10, 3 * M, pinnedSec=5.0),
        KvSession("u/b", 10, 1 * M),
        KvSession("u/a", 10, 4 * M),
    ]
    found = {row.name: (row.kv_cache, row.kv_pinned) for row in rows_of(now)}
    assert found == {
        "u": (8 * M, False),
        "u/a": (7 * M, True),
        "u/a/x": (None, False),
        "u/b": (1 * M, False),
        "u/c": (None, False),
    }


def test_a_clock_that_went_back_makes_no_negative_time() -> None:
    assert rows_of(snapshot(session("u/a", opened=200.0)))[-1].elapsed_sec == 0


def test_nothing_is_an_empty_list() -> None:
    assert rows_of(snapshot()) == []
