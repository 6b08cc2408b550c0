# SPDX-License-Identifier: Apache-2.0
"""The simulated kernel: who has which part of the CPUs, who grows by how much, and what happens at the limits.

Between two events everything is a straight line. A process is one thread. Memory grows as fast as the CPU share of who
grows can zero pages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

from agentcg.replay.simulation.clock import Clock
from agentcg.replay.simulation.group import PAGE, Group
from agentcg.replay.simulation.host import SimulatedHost
from agentcg.replay.simulation.oom import choose
from agentcg.replay.simulation.process import Phase, Process
from agentcg.replay.simulation.sharing import share_cpus
from agentcg.replay.simulation.throttle import BATCH, TOLERATED, slow_down_sec

__all__ = ["Machine"]

NOTICE_SEC = 0.01
"""A file of a cgroup tells of a change this often at most (CGROUP_FILE_NOTIFY_MIN_INTV)."""
_FULL = PAGE
"""A group with less room than this has none."""
_BYTE = 1.0


class Machine:
    """A host with everything that runs on it."""

    def __init__(self, host: SimulatedHost) -> None:
        self.host, self.clock = host, Clock()
        self.root = Group("")
        self.next_sec = inf
        """When something happens by itself: a step is done, or a limit is reached."""
        self.on_growing: Callable[[], None] = lambda: None
        """Called when somebody begins to grow, or memory is given back."""
        self.oom_kills = 0
        """Processes killed for want of memory."""
        self.growing = 0
        """How many processes grow now."""
        self.on_slowed: Callable[[Process], None] = lambda process: None
        """Told of a process that is made to wait at a memory.high for the first time."""
        self._at = 0.0
        self._running: dict[Process, None] = {}
        self._stalled: dict[Process, Group] = {}
        self._changed = False

    def run(self, until: float) -> None:
        """Let time pass until then; if that is infinite, until nothing happens any more."""
        while True:
            if self._changed:
                self._divide()
            time = min(self.clock.next_sec, self.next_sec)
            if time > until or time == inf:
                if until < inf:
                    self._pass(until)
                return
            self._pass(time)
            if self.next_sec <= time:
                self._changed = True
                self._steps()
                self._limits()
            else:
                self.clock.run_due()

    # Who runs

    def runs(self, process: Process) -> None:
        """A process could use a CPU from now on."""
        self._running[process] = None
        self._changed = True
        below: Group | Process = process
        for group in process.group.above:
            group.active[below] = None
            group.runnable += 1
            below = group
        if process.phase is Phase.GROW:
            self.growing += 1
            self.on_growing()

    def stops(self, process: Process) -> None:
        """It could not, from now on."""
        del self._running[process]
        self.growing -= process.phase is Phase.GROW
        self._changed = True
        below: Group | Process = process
        for group in process.group.above:
            group.runnable -= 1
            if below is process or (isinstance(below, Group) and not below.runnable):
                del group.active[below]
            below = group

    def weigh(self, group: Group, weight: int) -> None:
        """Set a group's share of the CPUs against its siblings."""
        group.weight = weight
        self._changed = True

    def freeze(self, group: Group) -> None:
        """Let all that is in a group stand still. Its memory stays."""
        if not group.frozen:
            group.frozen = True
            for process in group.all_processes():
                process.freeze()

    def thaw(self, group: Group) -> None:
        """Let it go on."""
        if group.frozen:
            group.frozen = False
            for process in list(group.all_processes()):
                process.thaw()

    def _pass(self, time: float) -> None:
        elapsed = time - self._at
        self._at = self.clock.now = time
        if elapsed <= 0:
            return
        rate = self.host.growth_rate
        for process in self._running:
            used = process.share * elapsed
            process.cpu_sec += used
            process.group.cpu_sec += used
            if process.phase is Phase.GROW:
                grown = min(used * rate, process.left)
                process.left -= grown
                process.allowance -= grown
                process.held += grown
                process.group.charge(grown)
            else:
                process.left -= used

    def _divide(self) -> None:
        """See who has which part of the CPUs from now on, and what happens next."""
        self._changed = False
        share_cpus(self.root, self.host.cpus)
        soonest, rate = inf, self.host.growth_rate
        growing: dict[Group, None] = {}
        for process in self._running:
            if process.phase is Phase.GROW:
                grows = process.share * rate
                soonest = min(soonest, min(process.left, max(process.allowance, 0.0)) / grows)
                for group in process.group.above:
                    group.rate += grows
                    growing[group] = None
            else:
                soonest = min(soonest, process.left / process.share)
        for group in growing:
            soonest = min(soonest, self._reaches(group))
            group.rate = 0.0
        self.next_sec = self._at + max(0.0, soonest)

    # Memory

    def _reaches(self, group: Group) -> float:
        """In how many seconds a growing group comes to where something happens."""
        sec = inf
        if group.maximum is not None:
            sec = max(0.0, group.maximum - _FULL / 2 - group.usage) / group.rate
        if group.high is not None:
            slowed = group.high * (1 + TOLERATED) + 2 * _BYTE
            if group.usage < slowed - _BYTE:  # Nearer than that, no time would pass.
                sec = min(sec, (slowed - group.usage) / group.rate)
            if group.on_high is not None:
                to_high = max(0.0, group.high + _BYTE - group.usage) / group.rate
                sec = min(sec, max(to_high, group.told_high + NOTICE_SEC - self._at))
        return sec

    def allowance(self, process: Process) -> float:
        """Return how much a process may grow by before it may be slowed down, bytes."""
        return BATCH if self._delay_sec(process) else inf

    def _delay_sec(self, process: Process) -> float:
        return max(slow_down_sec(group.usage, group.high) for group in process.group.above)

    def take(self, process: Process, size: float) -> None:
        """Charge ``size`` bytes to a process."""
        process.held += size
        process.peak = max(process.peak, process.held)
        process.group.charge(size)

    def give_back(self, process: Process, size: float) -> None:
        """A process gives ``size`` bytes back: whoever waits for memory goes on."""
        process.held -= size
        process.group.charge(-size)
        self._changed = True
        self.limited()
        self.on_growing()

    def limited(self) -> None:
        """A limit, or what is charged somewhere, is another than before."""
        self._changed = True
        for process, group in list(self._stalled.items()):
            if group.room() >= _FULL:
                del self._stalled[process]
                process.resume()

    def bound(self, group: Group, *, high: int | None, maximum: int | None) -> None:
        """Set both limits of a group; the kernel kills where it holds more than ``maximum``."""
        group.high = None if high is None else high // PAGE * PAGE
        group.maximum = None if maximum is None else maximum // PAGE * PAGE
        if high is not None:
            for process in group.all_processes():
                process.allowance = min(process.allowance, BATCH)
        if group.room() < 0:
            self._out_of_memory(group)
        self.limited()

    def _steps(self) -> None:
        for process in [process for process in self._running if process.left <= _least(process)]:
            if process.running:  # Else the step of another has stopped it.
                process.step_done()

    def _limits(self) -> None:
        """See who has come to a limit."""
        told: dict[Group, None] = {}
        now = self._at
        for process in [process for process in self._running if process.phase is Phase.GROW]:
            if not process.running:
                continue
            above = process.group.above
            full = next((group for group in above if group.room() < _FULL), None)
            if full is not None:
                self._stall(process, full)
                continue
            for group in above:
                if group.high is not None and group.usage > group.high and group.on_high is not None:
                    told[group] = None
            if process.allowance == inf or process.allowance < _BYTE:
                self._slow_down(process)
        for group in told:
            if group.on_high is not None and now >= group.told_high + NOTICE_SEC:
                group.told_high = now
                group.on_high()

    def _slow_down(self, process: Process) -> None:
        delay = self._delay_sec(process)
        process.allowance = BATCH if delay else inf
        if delay:
            if not process.slowed:
                process.slowed = True
                self.on_slowed(process)
            process.pause(Phase.SLOWED)
            process.group.slowed_sec += delay
            process.timer = self.clock.after(delay, process.resume)

    def _stall(self, process: Process, group: Group) -> None:
        process.pause(Phase.STALLED)
        self._stalled[process] = group
        self._out_of_memory(group)

    def _out_of_memory(self, group: Group) -> None:
        """A limit has run out: kill somebody, and see later if that was enough."""
        if group.killing:
            return
        chosen = choose(group)
        if not chosen:
            return
        group.ooms += 1
        group.killing = True
        self.clock.after(self.host.oom_wait_sec, partial(self._see_again, group))
        for process in chosen:
            process.chosen = True
            if process.phase is not Phase.DYING:  # Who is dying already is only waited for.
                process.group.kills += 1
                self.oom_kills += 1
                self.kill(process)

    def _see_again(self, group: Group) -> None:
        group.killing = False
        if group.room() < 0 or any(full is group for full in self._stalled.values()):
            self._out_of_memory(group)

    def kill(self, process: Process) -> None:
        """Send SIGKILL to a process."""
        self._stalled.pop(process, None)
        process.kill(self.host.kill_sec)


def _least(process: Process) -> float:
    return _BYTE if process.phase is Phase.GROW else 1e-9
