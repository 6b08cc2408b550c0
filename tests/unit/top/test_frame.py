# SPDX-License-Identifier: Apache-2.0
"""Drawing, as rich does it, on terminals of two sizes."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from agentcg.api.types import (
    Budget,
    Intent,
    KvSession,
    Limits,
    SessionInfo,
    SnapshotPart,
    Status,
    ToolCallInfo,
    Usage,
    Verdict,
)
from agentcg.top.frame import frame, short_duration, short_size
from agentcg.top.rows import rows_of
from agentcg.top.view import View

M = 1 << 20
LIMITS = Limits(100, 100, memoryHigh=460 * M, memoryMax=512 * M)
STATUS = Status("1.2", 1, 0.0, "/", "default", [], [], 1, 0, 0, 0, 0, 0)


def snapshot(calls: int, verdicts: int = 0, command: str = "pytest -x tests/test_one.py") -> SnapshotPart:
    budget = Budget(memoryMax=4 << 30)
    session = SessionInfo("alice/fix-1", 0, 0.0, budget, False, False, False, calls, memoryCurrent=900 * M)
    running = [
        ToolCallInfo(
            call=f"alice/fix-1/c{number}",
            ownerUid=0,
            started=7000.0,
            tool="Bash",
            command=command,
            callClass="test",
            intent=Intent(),
            limits=LIMITS,
            leased=True,
            memoryCurrent=number * M,
            cpuSec=100.0,
            state="throttled",
            durationPredictedSec=90.0,
            memoryPressure=12.5,
        )
        for number in range(calls)
    ]
    ended = [
        Verdict(
            f"bob/s/v{number}",
            "memory_limit",
            Usage(3.25, memoryPeak=512 * M),
            LIMITS,
            0,
            1,
            "",
            command,
            "test",
            "",
            False,
            "use less",
        )
        for number in range(verdicts)
    ]
    return SnapshotPart(7200.0, STATUS, [session], running, ended)


def draw(now: SnapshotPart, view: View | None, width: int, height: int) -> list[str]:
    console = Console(record=True, width=width, height=height, file=io.StringIO(), force_terminal=True)
    console.print(Group(*frame(now, rows_of(now), view, width, height)))
    return console.export_text().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
@pytest.mark.parametrize("calls", [0, 3, 200])
def test_a_frame_fills_the_terminal_and_no_more(width: int, height: int, calls: int) -> None:
    lines = draw(snapshot(calls, verdicts=8), View(), width, height)
    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width
    assert "q quit" in lines[-1]


def test_at_80_by_24() -> None:
    lines = draw(snapshot(2, verdicts=8), View(selected="alice/fix-1/c1"), 80, 24)
    assert lines[0] == "agentcg 1.2, up 2 h  1 tenant, 1 session, 2 calls  2 throttled"
    assert lines[1].split() == ["MEM", "HIGH", "MAX", "CPU%", "PSI%", "TIME", "OF", "CLASS", "STATE", "NAME"]
    assert lines[2].split()[:8] == ["900M", "-", "-", "-", "-", "2h00", "-", "alice"]
    assert lines[4].split()[:9] == ["1.0M", "460M", "512M", "50", "12", "3m20", "1m30", "test", "throttled"]
    assert "pytest -x tests" in lines[4]
    assert lines[19] == "last verdicts"
    assert lines[20].split() == ["512M", "3.2s", "memory_limit", "bob/s/v0", "use", "less"]
    assert len([line for line in lines if "bob/s/v" in line]) == 3


def test_caches_are_a_column_only_while_there_are_engines() -> None:
    now = snapshot(2)
    assert not any("KV" in line for line in draw(now, View(), 80, 24))
    now.kvSessions = [KvSession("alice/fix-1", 4096, 50 * M, pinnedSec=3.0)]
    lines = draw(now, View(), 80, 24)
    assert len(lines) == 24
    assert max(map(cell_len, lines)) <= 80
    assert lines[1].split()[7:] == ["KV", "CLASS", "STATE", "NAME"]
    end = lines[1].index("KV") + 2
    assert [line[end - 6 : end].strip() for line in lines[2:6]] == ["50.0M", "50.0M*", "", ""]
    assert lines[4].endswith("pytest -x…")
    now.kvSessions = []
    assert draw(now, View(), 80, 24)[3][end - 6 : end].strip() == "-"


def test_a_wide_terminal_has_names_and_more_verdicts() -> None:
    lines = draw(snapshot(1, verdicts=8), View(), 200, 50)
    assert lines[4].endswith("c0  pytest -x tests/test_one.py")
    assert len([line for line in lines if "bob/s/v" in line]) == 8


def test_the_selected_row_is_in_sight() -> None:
    now = snapshot(200)
    for name in ("alice", "alice/fix-1/c199", "alice/fix-1/c100", "alice/fix-1/c0"):
        lines = frame(now, rows_of(now), View(selected=name), 200, 24)
        (selected,) = [line for line in lines if line.style == "reverse"]
        assert f" {name.rpartition('/')[2]} " in selected.plain


@pytest.mark.parametrize("height", [1, 2, 3, 5])
def test_a_terminal_of_few_lines(height: int) -> None:
    assert len(draw(snapshot(3, verdicts=3), View(), 80, height)) == height


def test_what_is_asked_is_in_the_last_line() -> None:
    view = View(subject="alice/fix-1/c0", asking="kill")
    assert draw(snapshot(1), view, 80, 24)[-1].startswith("kill alice/fix-1/c0? y")
    view = View(subject="alice/fix-1/c0", asking="amend", typed="memory:1g")
    assert draw(snapshot(1), view, 80, 24)[-1].endswith(": memory:1g▏")
    assert draw(snapshot(1), View(wanted="abc"), 80, 24)[-1].startswith("filter: abc  m c t")
    assert draw(snapshot(1), View(message="done"), 80, 24)[-1] == "done"


def test_the_order_is_underlined_and_what_is_high_is_red() -> None:
    now = snapshot(500)
    for sort, heading in (("memory", "MEM"), ("cpu", "CPU%"), ("time", "TIME")):
        line = frame(now, [], View(sort=sort), 80, 24)[1]  # type: ignore[arg-type]
        assert [line.plain[span.start : span.end] for span in line.spans if span.style == "underline"] == [heading]
    lines = {
        row.name: line for row, line in zip(rows_of(now), frame(now, rows_of(now), None, 80, None)[2:], strict=False)
    }
    styles = {name: {span.style for span in line.spans} for name, line in lines.items()}
    assert {"red", "yellow"} <= styles["alice/fix-1/c499"]
    assert "red" not in styles["alice/fix-1/c400"]


def test_nothing_that_a_command_holds_reaches_the_terminal() -> None:
    now = snapshot(1, verdicts=1, command="x \x1b[2J\x07\r\n\x9b31m [bold]y[/] 日本語" * 20)
    console = Console(width=200, height=24, file=io.StringIO(), force_terminal=True, color_system=None)
    for line in frame(now, rows_of(now), None, 200, 24):
        console.print(line)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert not set(text) & set("\x07\r\x9b")
    assert "\x1b[2J" not in text
    assert "[bold]y" in text
    assert max(map(cell_len, text.splitlines())) <= 200


def test_without_a_view_all_rows_are_there_and_no_keys() -> None:
    now = snapshot(100, verdicts=8)
    lines = [line.plain for line in frame(now, rows_of(now), None, 80, None)]
    assert len(lines) == 2 + 102 + 9
    assert not any("quit" in line for line in lines)


@pytest.mark.parametrize(
    ("size", "text"), [(None, "-"), (0, "0B"), (999, "999B"), (1000, "1.0K"), (100 * M, "100M"), (5 << 39, "2.5T")]
)
def test_sizes(size: int | None, text: str) -> None:
    assert short_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00"),
        (3599.6, "1h00"),
        (359_940, "99h59"),
        (864_000, "10d"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert short_duration(seconds) == text
