# SPDX-License-Identifier: Apache-2.0
"""How much longer a call will run, and how much memory it will come to, from what calls like it did before.

A call is known by a path from the general to the particular, such as ``("Bash", "pytest", "u0/fix-123")``. What is
remembered of it is remembered of every beginning of that path too: of all calls, of the tool, of the command's words,
of these words in this session. A prediction mixes these levels. The most particular one counts with the weight
n / (n + 4), where n is how many of its calls got as far as this one has; what is left over goes to the level above it
in the same way, and from the topmost, with n / (n + 1), to a prior with a mean of 1 s or 64 MiB. So a call that nobody
has seen is predicted by what is known above it, a prediction sharpens as soon as there is something to sharpen it with,
and one that has outlived all others is left to the prior's tail (:mod:`agentcg.predict.distribution`).

Time here is progress: wall time without the time in which the call was not let run
(:func:`agentcg.predict.learn.progress_sec`). A call that is frozen gets no nearer to its end, and no later either.

Memory is bounded: the last 128 calls of a path, and the 4096 paths that were used last.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from agentcg.predict.distribution import Distribution

__all__ = ["Path", "Predictor"]

Path = tuple[str, ...]

# Chosen on the recordings of one half of the tasks; docs/kv.md says what was compared.
_RECENT = 128
_SHRINK = 4
_PATHS = 4096

_PRIOR_SHRINK = 1
_PRIOR_SEC = 1.0
_PRIOR_BYTES = float(64 << 20)


class _Past:
    """The last calls of one path."""

    __slots__ = ("durations", "peaks")

    def __init__(self) -> None:
        self.durations: deque[float] = deque(maxlen=_RECENT)
        self.peaks: deque[float] = deque(maxlen=_RECENT)


class Predictor:
    """Learns from calls that have ended, and predicts those that run."""

    def __init__(self) -> None:
        self._all = _Past()
        self._past: OrderedDict[Path, _Past] = OrderedDict()

    def observe(self, path: Path, progress_sec: float, memory_peak: int | None = None) -> None:
        """Learn what a call came to: seconds of progress, and bytes at its peak if that is known."""
        for length in range(len(path) + 1):
            past = self._make(path[:length])
            past.durations.append(progress_sec)
            if memory_peak is not None:
                past.peaks.append(float(memory_peak))

    def _make(self, path: Path) -> _Past:
        if not path:
            return self._all
        if path not in self._past:
            self._past[path] = _Past()
            if len(self._past) > _PATHS:
                self._past.popitem(last=False)
        self._past.move_to_end(path)
        return self._past[path]

    def remaining(self, path: Path, elapsed_sec: float = 0.0) -> Distribution:
        """Return how many more seconds of progress a call makes that has made ``elapsed_sec`` and goes on."""
        return _mix([past.durations for past in self._levels(path)], max(0.0, elapsed_sec), _PRIOR_SEC)

    def memory_peak(self, path: Path, reached_bytes: int = 0) -> Distribution:
        """Return how many bytes a call's peak will be above ``reached_bytes``, where it has been already."""
        return _mix([past.peaks for past in self._levels(path)], float(max(0, reached_bytes)), _PRIOR_BYTES)

    def _levels(self, path: Path) -> Iterator[_Past]:
        """What is known, the most particular first."""
        for length in range(len(path), 0, -1):
            if (past := self._past.get(path[:length])) is not None:
                self._past.move_to_end(path[:length])
                yield past
        yield self._all


def _mix(levels: Sequence[Sequence[float]], reached: float, prior: float) -> Distribution:
    shares: dict[float, float] = {}
    left = 1.0
    for index, level in enumerate(levels):
        beyond = [value - reached for value in level if value > reached] if reached else level
        if beyond:
            shrink = _PRIOR_SHRINK if index == len(levels) - 1 else _SHRINK
            each = left / (len(beyond) + shrink)
            left *= shrink / (len(beyond) + shrink)
            for value in beyond:
                shares[value] = shares.get(value, 0.0) + each
    values = tuple(sorted(shares))
    return Distribution(values, tuple(shares[value] for value in values), left, prior + reached)
