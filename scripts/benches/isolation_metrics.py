# SPDX-License-Identifier: Apache-2.0
"""What the isolation bench makes of one replay: numbers by metric, None where there was nothing to measure."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

from agentcg.replay.result import ArmResult, SessionResult

__all__ = ["UNITS", "metrics", "survived"]

UNITS: Mapping[str, str] = {
    "high_growth_ms": "ms",
    "high_growth_ms_per_mib": "ms/MiB",
    "high_growth_p95_ms": "ms",
    "high_completion_sec": "s",
    "high_boundaries_ms": "ms",
    "high_working_sec": "s",
    "others_completion_sec": "s",
    "others_last_sec": "s",
    "survivors": "of 1",
    "lost_somebody": "of 1",
    "agents_died": "",
    "calls_failed": "",
    "peak_mib": "MiB",
    "overshoot_mib": "MiB",
    "freeze_ms": "ms",
    "freezes": "",
    "controller_cpu_sec": "s",
    "controller_cpu_share": "of 1",
    "others_rounds_per_sec": "/s",
    "swap_peak_mib": "MiB",
    "zram_peak_mib": "MiB",
}


def survived(session: SessionResult) -> bool:
    """Whether a session finished and every call of it ended well: in the recordings, all do."""
    return session.state == "finished" and not session.failed


def metrics(result: ArmResult, figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the metrics of one replay, all of :data:`UNITS`.

    Times of a session that did not finish, and growth of a protected one that did not survive, are not there. Growth is
    the sum of the growth steps of the session's agent and calls; what a MiB of it took is known of one that died, too.

    :param figures: what the arm itself has measured
    """
    found: dict[str, float | None] = dict.fromkeys(UNITS)
    high = next((session for session in result.sessions if session.protected), None)
    others = [session for session in result.sessions if not session.protected]
    if high is not None and high.grown:
        found["high_growth_ms_per_mib"] = high.growth.total_ms / (high.grown / (1 << 20))
    if high is not None and survived(high):
        found["high_growth_ms"] = high.growth.total_ms
        found["high_growth_p95_ms"] = high.growth.p95_ms
        found["high_completion_sec"] = high.completion_sec
        found["high_boundaries_ms"] = high.boundaries.total_ms
        found["high_working_sec"] = high.completion_sec - high.boundaries.total_ms / 1e3
    if others and all(session.state == "finished" for session in others):
        found["others_completion_sec"] = mean(session.completion_sec for session in others)
        found["others_last_sec"] = max(session.completion_sec for session in others)
    alive = sum(survived(session) for session in result.sessions)
    found["survivors"] = alive / len(result.sessions)
    found["lost_somebody"] = float(alive < len(result.sessions))
    found["agents_died"] = float(sum(session.state == "died" for session in result.sessions))
    # A call that its agent took with it is not counted again.
    found["calls_failed"] = float(sum(call.outcome != "lost" for session in result.sessions for call in session.failed))
    if result.memory_peak is not None:
        found["peak_mib"] = result.memory_peak / (1 << 20)
    found |= figures
    if (cpu := found["controller_cpu_sec"]) is not None:
        found["controller_cpu_share"] = cpu / result.wall_sec
    return found
