# SPDX-License-Identifier: Apache-2.0
"""`agentcg doctor` on whatever host this is: its two outputs say the same."""

import json

from click.testing import CliRunner

from agentcg.cli.doctor import doctor
from agentcg.probe import probe


def test_json_has_every_rung_with_every_check_and_the_text_names_them_all():
    ladder = probe()
    told = CliRunner().invoke(doctor, ["--json"])
    rungs = json.loads(told.stdout)
    assert [(rung["name"], rung["holds"], rung["used"]) for rung in rungs] == [
        (rung.name, rung.holds, rung.used) for rung in ladder
    ]
    wanted = ("name", "holds", "found", "fix", "needed")
    assert [[tuple(check[key] for key in wanted) for check in rung["checks"]] for rung in rungs] == [
        [(check.name, check.holds, check.found, check.fix, check.needed) for check in rung.checks] for rung in ladder
    ]
    assert told.exit_code == (0 if ladder[1].holds else 1)

    text = CliRunner().invoke(doctor).stdout
    for rung in ladder:
        assert f"{rung.name}: {rung.gives}" in text
        for check in rung.checks:
            assert f"{check.name}: {check.found}" in text
            assert check.holds or check.fix in text
