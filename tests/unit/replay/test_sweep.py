# SPDX-License-Identifier: Apache-2.0
"""Sweeps on this machine: real worker processes, real simulations of small recordings."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agentcg.errors import InvalidInput, Unsupported
from agentcg.replay.arm_spec import parse_arm
from agentcg.replay.run_folder import read_run
from agentcg.replay.sweep import processes
from agentcg.replay.sweep.work import Done, Failed, policies_of

WORKLOADS = Path(__file__).parents[3] / "workloads"


def test_the_same_comes_out_of_one_process_and_of_four(sweep_file, tmp_path, run_replay, tree):
    one = run_replay("sweep", sweep_file, "-o", tmp_path / "one", "--processes", 1, "--json", tmp_path / "one.json")
    four = run_replay("sweep", sweep_file, "-o", tmp_path / "four", "--processes", 4, "--json", tmp_path / "four.json")
    assert (one.exit_code, four.exit_code) == (0, 0)
    assert tree(tmp_path / "one") == tree(tmp_path / "four")
    # sweep.json, and for each of 4 x 1 and 4 x 2 jobs of a round a file of events; two more for each configuration.
    assert len(tree(tmp_path / "one")) == 1 + 2 * (4 + 8) + 2 * 8
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "four.json").read_bytes()
    assert one.stdout == four.stdout
    assert "The best by completion, of 12" in one.stdout


def test_a_configuration_is_the_run_that_its_own_command_makes(sweep_file, tmp_path, run_replay, tree):
    run_replay("sweep", sweep_file, "-o", tmp_path / "all", "--processes", 2)
    options = ["--arm", "static", "--arm", "high-only", "--memory-max", "160M", "--agent-memory", "16M"]
    drawn = ["--draw", 2, "--rounds", 2, "--seed", 3, "--speed", 50]
    recordings = [f"{WORKLOADS}/tests.jsonl", f"install={WORKLOADS}/install.jsonl"]
    run_replay("simulated", *options, *drawn, "-o", tmp_path / "own", *recordings)
    alone, swept = tree(tmp_path / "own"), tree(tmp_path / "all" / "0005")
    # Only the order of the arms may differ in a round: there it is drawn, here it is that of the file.
    assert sorted(map(str, alone.pop("results.jsonl"))) == sorted(map(str, swept.pop("results.jsonl")))
    assert alone == swept


def test_a_worker_that_is_killed_costs_only_time(workload, job):
    jobs = [job(number) for number in range(6)]
    wanted = {each: workload.do(each).finished.result for each in jobs}
    found, killed = {}, 0
    with closing(processes.run_jobs(jobs, workload, 2)) as outcomes:
        for outcome in outcomes:
            assert isinstance(outcome, Done)
            found[outcome.job] = outcome.finished.result
            for child in multiprocessing.active_children():
                if killed < 2 and child.pid is not None:
                    os.kill(child.pid, signal.SIGKILL)
                    killed += 1
    assert killed == 2
    assert found == wanted
    assert multiprocessing.active_children() == []


def test_a_job_that_all_die_of_is_told_and_the_others_are_done(workload, job, deadly):
    lethal = job(1, deadly)
    jobs = [job(0), lethal, job(2), job(3)]
    outcomes = {outcome.job: outcome for outcome in processes.run_jobs(jobs, workload, 2)}
    assert outcomes.pop(lethal) == Failed(lethal, "3 workers died of it, the last of SIGKILL")
    assert {each.round for each in outcomes} == {0, 2, 3}
    assert all(isinstance(outcome, Done) for outcome in outcomes.values())


def test_what_goes_wrong_in_a_job_is_its_outcome(workload, job):
    assert workload.do(job(0, draw=5)) == Failed(
        job(0, draw=5), "ValueError: Sample larger than population or is negative"
    )


def test_the_policy_of_an_arm_is_what_it_was_in_the_beginning(tmp_path, workload, job):
    file = tmp_path / "mine.toml"
    file.write_text('version = 1\n[defaults]\nmemory_max = "60M"\n')
    spec = parse_arm(f"agentcg={file}")
    workload = replace(workload, policies=policies_of([spec, parse_arm("agentcg"), parse_arm("none")]))
    assert workload.policies == {str(file): file.read_bytes()}
    file.unlink()
    done, by_default = workload.do(job(0, spec)), workload.do(job(0, parse_arm("agentcg")))
    assert isinstance(done, Done)
    assert isinstance(by_default, Done)
    assert done.finished.arm == f"agentcg={file}"
    refused, allowed = ([one.failed for one in each.finished.result.sessions] for each in (done, by_default))
    assert refused != allowed


def test_no_worker_is_left_behind(workload, job):
    outcomes = processes.run_jobs([job(number) for number in range(50)], workload, 2)
    next(outcomes)
    assert len(multiprocessing.active_children()) == 2
    outcomes.close()
    assert multiprocessing.active_children() == []


def test_what_was_interrupted_goes_on_by_the_same_command(sweep_file, tmp_path):
    text = sweep_file.read_text().replace("rounds = 2", "rounds = 40").replace(', ["static", "high-only"]', "")
    sweep_file.write_text(text.replace('"160M", ', "").replace(', "16M"', ""))
    program = [sys.executable, "-c", "from agentcg.cli import main; main()"]
    command = [*program, "replay", "sweep", sweep_file, "-o", tmp_path / "out", "--processes", "2"]
    # A process group of its own, so that Ctrl-C reaches all of it, as at a terminal.
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0, text=True)
    results = tmp_path / "out" / "0000" / "results.jsonl"
    deadline = time.monotonic() + 60
    while not results.exists() or results.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(first.pid).children(recursive=True)
    os.killpg(first.pid, signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "the sweep was interrupted with " in said
    assert "hint: the same command goes on with it" in said
    assert "Traceback" not in said, said
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    had = results.read_bytes().splitlines()
    assert 5 <= len(had) <= 40
    # Somebody else tore the last line of one that was being written.
    results.write_bytes(b"\n".join(had) + b"\n" + had[0][:30])
    subprocess.run(command, check=True, timeout=100, stdout=subprocess.PIPE)
    # What had finished was not done again, its wall time would be another. Two workers may leave a gap between.
    assert set(had) <= set(results.read_bytes().splitlines())
    assert len(read_run(tmp_path / "out" / "0000").results) == 40


def test_another_sweep_in_the_same_folder_is_refused(sweep_file, tmp_path, run_replay, tree):
    sweep_file.write_text(sweep_file.read_text().replace('"160M", "400M"', '"400M"').replace('"0", "16M"', '"0"'))
    run_replay("sweep", sweep_file, "-o", tmp_path / "out", "--processes", 1)
    before = tree(tmp_path / "out")
    sweep_file.write_text(sweep_file.read_text().replace("seed = 3", "seed = 4"))
    with pytest.raises(InvalidInput, match=r"sweep\.json: seed: is 3 in the run that is there, and 4 now"):
        run_replay("sweep", sweep_file, "-o", tmp_path / "out", "--processes", 1)
    assert tree(tmp_path / "out") == before


def test_a_policy_that_was_changed_meanwhile_is_another_sweep(sweep_file, tmp_path, run_replay):
    policy = tmp_path / "mine.toml"
    policy.write_text("version = 1\n")
    sweep_file.write_text(sweep_file.read_text().replace('"none", ["static", "high-only"]', f'"agentcg={policy}"'))
    run_replay("sweep", sweep_file, "-o", tmp_path / "out", "--processes", 1)
    run_replay("sweep", sweep_file, "-o", tmp_path / "out", "--processes", 1)
    policy.write_text("version = 1\n# changed\n")
    with pytest.raises(InvalidInput, match=r"sweep\.json: policies\..*mine\.toml: is .* in the run that is there"):
        run_replay("sweep", sweep_file, "-o", tmp_path / "out", "--processes", 1)


def test_what_cannot_be_is_said_before_anything_starts(sweep_file, tmp_path, run_replay, tree):
    text = sweep_file.read_text()
    for old, new, error in [
        ("tests.jsonl", "none.jsonl", r"none\.jsonl: there is no such file or directory"),
        ('"none"', '"agentcg=none.toml"', r"none\.toml: cannot be read"),
        ("draw = 2", "draw = 3", r"sweep\.toml: draw: 3 cannot be drawn of 2 recordings"),
    ]:
        sweep_file.write_text(text.replace(old, new))
        with pytest.raises(InvalidInput, match=error):
            run_replay("sweep", sweep_file, "-o", tmp_path / "out")
    sweep_file.write_text(text)
    with pytest.raises(InvalidInput, match="--processes: with --ray the cluster has its own"):
        run_replay("sweep", sweep_file, "-o", tmp_path / "out", "--processes", 2, "--ray", "auto")
    assert not (tmp_path / "out").exists()


def test_without_ray_it_is_said_how_to_get_it(sweep_file, tmp_path, run_replay, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unsupported, match="--ray takes Ray, and it is not installed here") as caught:
        run_replay("sweep", sweep_file, "-o", tmp_path / "out", "--ray", "auto")
    assert "pip install 'agentcg[ray]'" in caught.value.hint
