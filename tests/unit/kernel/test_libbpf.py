# SPDX-License-Identifier: Apache-2.0
"""What can be seen of libbpf without the right to load anything."""

import ctypes
import errno
import re
from pathlib import Path

import pytest

from agentcg.errors import AgentcgError, Unsupported
from agentcg.kernel import build_bpf, confine, executions, mem
from agentcg.kernel.libbpf import BpfError, Object, library, require


@pytest.fixture
def compiled(compiled_objects):
    return compiled_objects["agentcg_mem"]


def test_a_missing_library_is_named_with_the_package_that_has_it():
    with pytest.raises(Unsupported, match=r"libbpf-that-is-not\.so\.1 cannot be used.*apt install libbpf1"):
        library("libbpf-that-is-not.so.1")


def test_another_library_under_that_name_is_refused():
    with pytest.raises(Unsupported, match="undefined symbol"):
        library("libc.so.6")


def test_a_version_that_is_too_old_is_told_with_the_one_needed(compiled):
    with pytest.raises(Unsupported, match=r"too old for magic, which needs 99\.1"):
        require((99, 1), "magic")


def test_a_broken_object_says_which_and_why(compiled):
    with pytest.raises(BpfError, match=r"opening BPF object broken\.bpf\.o") as caught:
        Object(b"\x7fELF" + bytes(60), "broken.bpf.o")
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, AgentcgError)
    assert caught.value.errno
    assert "libbpf:" in caught.value.log
    with pytest.raises(BpfError):
        Object(compiled.read_bytes()[:2000], "half.bpf.o")


def test_a_missing_object_says_how_to_build_it(tmp_path):
    with pytest.raises(Unsupported, match=r"no BPF object .*none\.bpf\.o.*build_bpf"):
        Object.open(tmp_path / "none.bpf.o")


def test_read_only_data_is_set_by_name_and_checked_by_size(compiled):
    with Object.open(compiled) as one:
        offset, size = one.btf.variable(".rodata", "config")
        assert size == ctypes.sizeof(mem.Config)
        assert mem.Config.from_buffer_copy(one.rodata(offset, size)).stall_min_us == 1000
        one.set_rodata("config", mem.Config(root_id=1 << 40, root_level=7))
        assert mem.Config.from_buffer_copy(one.rodata(offset, size)).root_id == 1 << 40
        with pytest.raises(BpfError, match=f"config has {size} bytes, not 8"):
            one.set_rodata("config", _Eight())
        with pytest.raises(KeyError, match="no variable nothing"):
            one.set_rodata("nothing", 1)


class _Eight(ctypes.Structure):
    _fields_ = (("value", ctypes.c_uint64),)


@pytest.mark.parametrize("face", [mem, confine, executions])
def test_every_structure_of_the_header_has_its_mirror(face):
    header = Path(build_bpf.__file__).parents[2] / f"bpf/{face.NAME}.h"
    assert set(re.findall(r"^struct (\w+) \{", header.read_text(), re.M)) == set(face.STRUCTURES)


@pytest.mark.parametrize(
    ("face", "name"), [(face, name) for face in (mem, confine, executions) for name in face.STRUCTURES]
)
def test_python_and_c_agree_on_every_structure(compiled_objects, face, name):
    ours = face.STRUCTURES[name]
    with Object.open(compiled_objects[face.NAME]) as one:
        assert one.btf.size(name) == ctypes.sizeof(ours)
        mine = {field: (getattr(ours, field).offset, getattr(ours, field).size) for field, _ in ours._fields_}
        assert one.btf.structure(name) == mine


@pytest.mark.parametrize(
    ("face", "name", "prefix", "ours"),
    [
        (mem, "agentcg_mem_kind", "AGENTCG_MEM_", mem.Kind),
        (mem, "agentcg_mem_stat", "AGENTCG_MEM_STAT_", mem.Stat),
        (confine, "agentcg_confine_kind", "AGENTCG_CONFINE_", confine.Kind),
        (executions, "agentcg_exec_kind", "AGENTCG_EXEC_", executions.Kind),
        (executions, "agentcg_exec_match", "AGENTCG_EXEC_", executions.Match),
    ],
)
def test_python_and_c_agree_on_every_number(compiled_objects, face, name, prefix, ours):
    with Object.open(compiled_objects[face.NAME]) as one:
        theirs = one.btf.enumeration(name)
    last = max(theirs, key=theirs.__getitem__)
    assert theirs.pop(last) == len(ours)
    assert {key.removeprefix(prefix): value for key, value in theirs.items()} == {one.name: one.value for one in ours}


def test_maps_know_the_size_of_their_values(compiled):
    with Object.open(compiled) as one:
        with pytest.raises(BpfError, match=r"stats holds values of 8 bytes, not of 4"):
            one.map("stats", ctypes.c_uint32)
        with pytest.raises(BpfError, match="has no map nothing") as caught:
            one.map("nothing", ctypes.c_uint32)
        assert caught.value.errno == errno.ENOENT


def test_a_compiler_that_is_not_there_or_fails_is_named(tmp_path):
    with pytest.raises(Unsupported, match=r"no clang-that-is-not .*apt install clang"):
        build_bpf.build(target=tmp_path, clang="clang-that-is-not")
    (tmp_path / "bad.bpf.c").write_text("int x = ;\n")
    with pytest.raises(Unsupported, match=r"(?s)failed to compile bad\.bpf\.c"):
        build_bpf.build(tmp_path, tmp_path / "out", clang="false")
    assert not list((tmp_path / "out").iterdir())
