# SPDX-License-Identifier: Apache-2.0
"""Sweeps on a Ray cluster of two nodes, on this machine. It takes the extra ``ray`` and a minute or two:

python -m pytest tests/unit/replay/test_sweep_ray.py -m long
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from agentcg.errors import AgentcgError
from agentcg.replay.sweep import cluster
from agentcg.replay.sweep.work import Done, Failed

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def nodes() -> Iterator[Any]:
    """Two nodes with one CPU each, and a store of its own."""
    from ray.cluster_utils import Cluster

    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        own = {"num_cpus": 1, "object_store_memory": 100 << 20, "temp_dir": folder}
        found = Cluster(initialize_head=True, head_node_args=own)
        try:
            found.add_node(**own)
            yield found
        finally:
            found.shutdown()


def worker_of(node: Any) -> int:
    """Wait until a process of a node does a job, and return its id."""
    (raylet,) = node.all_processes["raylet"]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in psutil.Process(raylet.process.pid).children(recursive=True):
            if child.cmdline()[:1] == ["ray::_work"]:
                return child.pid
    pytest.fail("no worker has a job")


def test_the_same_comes_out_of_a_cluster(nodes, sweep_file, tmp_path, run_replay, tree):
    run_replay("sweep", sweep_file, "-o", tmp_path / "one", "--processes", 1)
    far = run_replay("sweep", sweep_file, "-o", tmp_path / "far", "--ray", nodes.address)
    assert far.exit_code == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "far")


def test_a_node_and_a_worker_that_are_killed_cost_only_time(nodes, workload, job):
    jobs = [job(number) for number in range(30)]
    wanted = {each: workload.do(each).finished.result for each in jobs}
    second = next(iter(nodes.worker_nodes))
    found: dict[Any, Any] = {}
    with closing(cluster.run_jobs(jobs, workload, nodes.address)) as outcomes:
        for outcome in outcomes:
            assert isinstance(outcome, Done)
            found[outcome.job] = outcome.finished.result
            if len(found) == 5:
                os.kill(worker_of(nodes.head_node), signal.SIGKILL)
            if len(found) == 10:
                nodes.remove_node(second, allow_graceful=False)
    assert found == wanted


def test_a_job_that_all_die_of_is_told_and_the_others_are_done(nodes, workload, job, deadly):
    jobs = [job(0), job(1, deadly), job(2), job(3)]
    outcomes = {outcome.job.round: outcome for outcome in cluster.run_jobs(jobs, workload, nodes.address)}
    lost = outcomes.pop(1)
    assert isinstance(lost, Failed)
    assert lost.reason.startswith("given up after 3 attempts: ")
    assert set(outcomes) == {0, 2, 3}
    assert all(isinstance(outcome, Done) for outcome in outcomes.values())


def test_what_was_interrupted_goes_on_without_the_cluster(nodes, sweep_file, tmp_path, run_replay, tree):
    sweep_file.write_text(sweep_file.read_text().replace("rounds = 2", "rounds = 20"))
    program = [sys.executable, "-c", "from agentcg.cli import main; main()"]
    command = [*program, "replay", "sweep", sweep_file, "-o", tmp_path / "out", "--ray", nodes.address]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    results = tmp_path / "out" / "0000" / "results.jsonl"
    deadline = time.monotonic() + 60
    while not results.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "the sweep was interrupted with " in said
    assert results.read_bytes().count(b"\n") > 0
    run_replay("sweep", sweep_file, "-o", tmp_path / "out", "--processes", 2)
    run_replay("sweep", sweep_file, "-o", tmp_path / "whole", "--processes", 2)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_node_with_another_version_is_refused(nodes, workload, job, monkeypatch):
    monkeypatch.setattr(cluster, "__version__", "0.0.1")
    with pytest.raises(AgentcgError, match=r"the node [0-9.]+ has agentcg .+, and this is 0\.0\.1"):
        next(cluster.run_jobs([job(0)], workload, nodes.address))


def test_a_cluster_that_is_not_there(workload, job):
    with pytest.raises(AgentcgError, match=r"--ray: the cluster at 127\.0\.0\.1:1 cannot be used: ") as caught:
        next(cluster.run_jobs([job(0)], workload, "127.0.0.1:1"))
    assert "ray start --head" in caught.value.hint
