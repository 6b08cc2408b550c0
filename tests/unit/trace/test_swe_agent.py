# SPDX-License-Identifier: Apache-2.0
"""SWE-agent's trajectories, on two of our own making."""

import json
from pathlib import Path

import pytest

from agentcg.errors import InvalidInput
from agentcg.trace.importer import Source
from agentcg.trace.model import RecordedCall
from agentcg.trace.swe_agent import IMPORTER

DATA = Path(__file__).parent / "data" / "swe_agent"


def _changed(tmp_path, edit):
    content = json.loads((DATA / "try" / "shop-7" / "shop-7.traj").read_text())
    edit(content)
    path = tmp_path / "changed.traj"
    path.write_text(json.dumps(content))
    return IMPORTER.read(Source(path, "n"))


def test_commands_stand_one_behind_the_other_with_what_they_took():
    (recording,) = IMPORTER.read(Source(DATA / "try" / "shop-7" / "shop-7.traj", "n"))
    assert recording.timing == "durations"
    assert recording.started is None
    assert recording.model == "model-s"
    assert recording.source == "SWE-agent 1.1.0"
    assert recording.calls == (
        RecordedCall("step-1", "bash", "ls -F", 0.0, 0.125),
        RecordedCall("step-2", "bash", 'open "cart.py"', 0.125, 0.375),
        RecordedCall("step-5", "bash", "python -m pytest -x", 0.375, 12.875),
        RecordedCall("step-6", "bash", "submit", 12.875, 13.375),
    )


def test_steps_that_ran_nothing_are_left_out_and_told():
    (recording,) = IMPORTER.read(Source(DATA / "try" / "shop-7" / "shop-7.traj", "n"))
    (note,) = recording.warnings
    assert note.endswith("left out 2 steps that ran no command")


def test_each_attempt_is_a_session():
    first, second = IMPORTER.read(Source(DATA / "retried.traj", "n"))
    assert [(item.name, item.model, len(item.calls)) for item in (first, second)] == [
        ("n-0", None, 1),
        ("n-1", "model-t", 2),
    ]


@pytest.mark.parametrize(
    ("edit", "place", "message"),
    [
        (
            lambda c: [step.pop("execution_time") for step in c["trajectory"]],
            ": trajectory",
            "no step has an execution",
        ),
        (lambda c: c["trajectory"][1].pop("execution_time"), ": trajectory[1].execution_time", "None is no duration"),
        (
            lambda c: c["trajectory"][1].update(execution_time=-1),
            ": trajectory[1].execution_time",
            "-1.0 is no duration",
        ),
        (lambda c: c["trajectory"][1].update(action=5), ": trajectory[1].action", "got `int`"),
        (lambda c: c.pop("trajectory"), "", "missing required field `trajectory`"),
        (lambda c: c["trajectory"].clear(), ": trajectory", "the recording has no calls"),
        (lambda c: c.update(attempts=[{"trajectory": [{"action": "a", "execution_time": "x"}]}]), None, "got `str`"),
    ],
)
def test_what_is_broken_is_named_with_its_place(tmp_path, edit, place, message):
    with pytest.raises(InvalidInput) as caught:
        _changed(tmp_path, edit)
    place = ": attempts[0].trajectory[0].execution_time" if place is None else place
    assert caught.value.place == f"{tmp_path / 'changed.traj'}{place}"
    assert message in caught.value.detail


@pytest.mark.parametrize("config", [None, "no JSON", "[]", {"agent": {"model": {}}}, {"agent": {"model": {"name": 5}}}])
def test_without_a_configuration_the_model_is_not_known(tmp_path, config):
    (recording,) = _changed(tmp_path, lambda content: content.update(replay_config=config))
    assert recording.model is None
