# SPDX-License-Identifier: Apache-2.0
"""How the events rung steps down where something is missing."""

import asyncio
from pathlib import Path

import pytest

from agentcg.errors import Unsupported
from agentcg.kernel import build_bpf, mem
from agentcg.kernel.libbpf import library


def start():
    async def main():
        mem.MemEvents(1, 0, asyncio.get_running_loop(), print).close()

    asyncio.run(main())


@pytest.fixture
def built(tmp_path, monkeypatch):
    try:
        library()
    except Unsupported as error:
        pytest.skip(str(error))
    monkeypatch.setattr(mem, "object_path", lambda name: tmp_path / f"{name}.bpf.o")
    return tmp_path / "agentcg_mem.bpf.o"


def test_without_the_compiled_programs_the_reason_says_how_to_build_them(built):
    with pytest.raises(Unsupported, match=r"no agentcg_mem\.bpf\.o in .*build_bpf"):
        start()


def test_a_file_that_is_no_object_is_named(built):
    built.write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(Unsupported, match=r"opening BPF object agentcg_mem\.bpf\.o"):
        start()


def test_an_object_of_another_version_is_refused_before_it_is_loaded(built, tmp_path):
    sources = Path(build_bpf.__file__).parents[2] / "bpf"
    changed = tmp_path / "bpf"
    changed.mkdir()
    for source in sources.iterdir():
        text = source.read_text().replace("\t__u32 hold_us;", "\t__u32 hold_us, more[2];")
        (changed / source.name).write_text(text)
    try:
        build_bpf.build(changed, tmp_path)
    except Unsupported as error:
        pytest.skip(str(error))
    with pytest.raises(Unsupported, match=r"not of this version of agentcg: agentcg_mem_config"):
        start()
