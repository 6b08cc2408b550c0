# SPDX-License-Identifier: Apache-2.0
"""A quantity over time, as straight lines between points."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Line", "Profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A quantity over session time: straight lines between points. Two points at one time are a step."""

    points: tuple[tuple[float, float], ...]

    def at(self, t_sec: float) -> float:
        """The value at a time, behind the step if there is one; the first or the last value outside."""
        index = bisect_right(self.points, t_sec, key=lambda point: point[0]) - 1
        if index < 0:
            return self.points[0][1]
        (t1, value1) = self.points[index]
        if t1 == t_sec or index + 1 == len(self.points):
            return value1
        (t2, value2) = self.points[index + 1]
        return value1 + (value2 - value1) * ((t_sec - t1) / (t2 - t1))

    @property
    def peak(self) -> float:
        return max(value for _, value in self.points)

    @property
    def rise(self) -> float:
        """The sum of all rises."""
        return sum(max(0, after - before) for (_, before), (_, after) in pairwise(self.points))


class Line:
    """A profile being drawn; the points inside a flat stretch are left out."""

    def __init__(self, t_sec: float, value: float) -> None:
        self.points = [(t_sec, value)]

    def to(self, t_sec: float, value: float) -> None:
        points = self.points
        if points[-1] == (t_sec, value):
            return
        if len(points) > 1 and points[-1][1] == points[-2][1] == value:
            points.pop()
        points.append((t_sec, value))

    def profile(self) -> Profile:
        return Profile(tuple(self.points))
