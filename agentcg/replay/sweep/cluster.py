# SPDX-License-Identifier: Apache-2.0
"""Jobs of a sweep on many machines, by Ray (https://docs.ray.io): it places them, and begins those anew that die with a
worker or a node.

Nothing is read on a node: what all jobs share lies in Ray's object store, and each worker fetches it once.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any

from agentcg import __version__
from agentcg.errors import AgentcgError, Unsupported
from agentcg.replay.sweep.work import ATTEMPTS, Failed, Job, Outcome, Workload

__all__ = ["run_jobs"]

_WAITING_PER_CPU = 4
"""How many jobs are with the cluster, for each of its CPUs: enough that none waits for us."""
_REACH_SEC = 10
_PROBE_SEC = 60
_CACHE: dict[str, Workload] = {}
"""In a worker: what it has fetched."""


def run_jobs(jobs: Iterable[Job], workload: Workload, address: str) -> Generator[Outcome]:
    """Yield what each job came to, as it comes. The cluster is left as it was when the iterator is closed.

    :param address: of the cluster that this machine is a node of: ``auto``, or ``HOST:PORT``
    :raises AgentcgError: if there is no Ray, no cluster, or a node without this agentcg
    """
    ray = _connect(address)
    try:
        _check_nodes(ray)
        # No single object, or Ray would fetch and unpack it for each job.
        shared = [ray.put(workload)]
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_work)
        todo = iter(jobs)
        given: dict[Any, Job] = {}
        limit = max(1, int(ray.cluster_resources().get("CPU", 1))) * _WAITING_PER_CPU
        while True:
            given |= {task.remote(shared, job): job for job in islice(todo, limit - len(given))}
            if not given:
                return
            (ready, *_), _ = ray.wait(list(given), num_returns=1)
            job = given.pop(ready)
            yield _outcome(ray, ready, job)
    finally:
        ray.shutdown()


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError:
        hint = "pip install 'agentcg[ray]', here and on each node; or leave out --ray"
        raise Unsupported("--ray takes Ray, and it is not installed here", hint=hint) from None
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "'ray start --head' begins a cluster, 'ray start --address HOST:6379' adds a node, this one too"
        raise AgentcgError(f"--ray: the cluster at {address[:80]} cannot be used: {reason}", hint=hint) from None
    return ray


def _reach(address: str) -> None:
    """Where nobody listens, Ray would try for minutes. :raises OSError: if nobody does"""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SEC).close()


def _check_nodes(ray: Any) -> None:
    """Ask each node for its agentcg: another one may come to other results."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(_version)
    nodes = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in ray.nodes()
        if node["Alive"]
    }
    for asked, node in nodes.items():
        try:
            there = ray.get(asked, timeout=_PROBE_SEC)
        except ray.exceptions.RayError as error:
            there = f"none that answers ({str(error).strip().splitlines()[-1]})"
        if there != __version__:
            raise AgentcgError(
                f"--ray: the node {node['NodeManagerAddress']} has agentcg {there}, and this is {__version__}",
                hint="install the same one on each node: pip install 'agentcg[ray]'",
            )


def _outcome(ray: Any, ready: Any, job: Job) -> Outcome:
    try:
        outcome: Outcome = ray.get(ready)
    except ray.exceptions.RayError as error:
        return Failed(job, f"given up after {ATTEMPTS} attempts: {str(error).strip().splitlines()[0]}")
    return outcome


def _version() -> str:
    return __version__


def _work(shared: list[Any], job: Job) -> Outcome:
    """Do a job, in a worker of Ray."""
    import ray

    (reference,) = shared
    key = reference.hex()
    if key not in _CACHE:
        _CACHE.clear()
        _CACHE[key] = ray.get(reference)
    return _CACHE[key].do(job)
