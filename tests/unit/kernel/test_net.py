# SPDX-License-Identifier: Apache-2.0
"""What the face of the network programs is, and how it steps down, without the right to load anything."""

import ctypes
import re
from pathlib import Path

import pytest

from agentcg.errors import Unsupported
from agentcg.kernel import build_bpf, net
from agentcg.kernel.libbpf import Object

SOURCES = Path(build_bpf.__file__).parents[2] / "bpf"


@pytest.fixture
def compiled(compiled_objects):
    return compiled_objects["agentcg_net"]


def test_every_structure_of_the_header_has_its_mirror():
    header = (SOURCES / "agentcg_net.h").read_text()
    assert set(re.findall(r"^struct (\w+) \{", header, re.M)) == set(net.STRUCTURES)


@pytest.mark.parametrize("name", net.STRUCTURES)
def test_python_and_c_agree_on_every_structure(compiled, name):
    ours = net.STRUCTURES[name]
    with Object.open(compiled) as one:
        assert one.btf.size(name) == ctypes.sizeof(ours)
        mine = {field: (getattr(ours, field).offset, getattr(ours, field).size) for field, _ in ours._fields_}
        assert one.btf.structure(name) == mine


def test_every_program_is_one_for_cgroups(compiled):
    with Object.open(compiled) as one:
        assert {program.section for program in one.programs.values()} == {
            *("cgroup_skb/egress", "cgroup_skb/ingress"),
            *("cgroup/connect4", "cgroup/connect6", "cgroup/sendmsg4", "cgroup/sendmsg6"),
        }


def test_without_the_compiled_programs_the_reason_says_how_to_build_them(monkeypatch, tmp_path):
    monkeypatch.setattr(net, "require", lambda *_: "1.5")
    monkeypatch.setattr(net, "object_path", lambda name: tmp_path / f"{name}.bpf.o")
    with pytest.raises(Unsupported, match=r"no agentcg_net\.bpf\.o in .*build_bpf"):
        net.NetworkPrograms()


def test_an_object_of_another_version_is_refused_before_it_is_loaded(compiled, monkeypatch, tmp_path):
    for source in SOURCES.glob("agentcg_net.*"):
        (tmp_path / source.name).write_text(source.read_text().replace("__u64 refused;", "__u64 refused, more;"))
    built = build_bpf.build(tmp_path, tmp_path / "out")[0]
    monkeypatch.setattr(net, "object_path", lambda name: built)
    with pytest.raises(Unsupported, match=r"not of this version of agentcg: agentcg_net_counters"):
        net.NetworkPrograms()
