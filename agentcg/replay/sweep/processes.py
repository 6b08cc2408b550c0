# SPDX-License-Identifier: Apache-2.0
"""Jobs of a sweep on this machine: worker processes, one job each at a time.

Which worker has which job is known at any time, so one that dies takes nothing with it: another begins the job again,
and a job that all die of is known by that. (A ``concurrent.futures.ProcessPoolExecutor`` breaks as a whole when a
worker dies, and does not say of which job.)
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from agentcg.replay.sweep.work import ATTEMPTS, Failed, Job, Outcome, Workload

__all__ = ["run_jobs"]

_SPAWN = get_context("spawn")  # A fork would copy the locks of whatever threads there are.


def run_jobs(jobs: Iterable[Job], workload: Workload, processes: int) -> Generator[Outcome]:
    """Yield what each job came to, as it comes. What still runs when the generator is closed is killed."""
    with closing(_Pool(jobs, workload)) as pool:
        while pool.fill(processes):
            yield from pool.hear()


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    job: Job

    def death(self) -> str:
        status = self.process.exitcode or 0
        return f"the last of {signal.Signals(-status).name}" if status < 0 else f"the last with status {status}"


class _Pool:
    def __init__(self, jobs: Iterable[Job], workload: Workload) -> None:
        self._todo = iter(jobs)
        self._again: list[Job] = []
        self._deaths: Counter[Job] = Counter()
        self._workers: dict[Connection, _Worker] = {}
        # A file that goes when we do, which every worker reads when it starts.
        self._shared = os.memfd_create("agentcg-sweep")
        with open(self._shared, "wb", closefd=False) as file:
            pickle.dump(workload, file)

    def fill(self, processes: int) -> bool:
        """Start workers until there are so many, or nothing more to do. False if there are none."""
        while len(self._workers) < processes and (job := self._next()) is not None:
            self._start(job)
        return bool(self._workers)

    def hear(self) -> Generator[Outcome]:
        """Wait for one worker or more, and yield what their jobs came to. Who has done one is given the next."""
        for pipe in wait(list(self._workers)):
            assert isinstance(pipe, Connection)  # noqa: S101  it is one of ours
            worker = self._workers[pipe]
            try:
                outcome: Outcome = pipe.recv()
            except (EOFError, OSError):
                self._end(pipe)
                yield from self._died(worker)
                continue
            if (following := self._next()) is None:
                self._end(pipe)
            else:
                worker.job = following
                _give(pipe, following)
            yield outcome

    def close(self) -> None:
        for pipe in list(self._workers):
            self._end(pipe)
        os.close(self._shared)

    def _next(self) -> Job | None:
        return self._again.pop() if self._again else next(self._todo, None)

    def _start(self, job: Job) -> None:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(f"/proc/{os.getpid()}/fd/{self._shared}", theirs), daemon=True)
        # Ctrl-C at a terminal is told to all of its processes, and ours to answer: workers inherit that it is blocked.
        # What starts beside the first of them unblocks it, so it comes before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            self._workers[ours] = _Worker(process, job)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        _give(ours, job)

    def _died(self, worker: _Worker) -> Generator[Outcome]:
        self._deaths[worker.job] += 1
        if self._deaths[worker.job] < ATTEMPTS:
            self._again.append(worker.job)
        else:
            yield Failed(worker.job, f"{ATTEMPTS} workers died of it, {worker.death()}")

    def _end(self, pipe: Connection) -> None:
        process = self._workers.pop(pipe).process
        process.kill()
        process.join()
        pipe.close()


def _give(pipe: Connection, job: Job) -> None:
    try:
        pipe.send(job)
    except BrokenPipeError:
        pass  # The worker is dead, and its end of the pipe says so in a moment.


def _work(shared: str, pipe: Connection) -> None:
    """Do what comes through the pipe until its other end is closed."""
    workload: Workload = pickle.loads(Path(shared).read_bytes())  # noqa: S301  our own
    while True:
        try:
            pipe.send(workload.do(pipe.recv()))
        except (EOFError, OSError):
            return
