# SPDX-License-Identifier: Apache-2.0
"""The check of vLLM's internals, on modules of our own; tests/engines has the real ones."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from agentcg.errors import Unsupported
from agentcg.kv.engines.vllm import check


class Pool:
    def touch(self, blocks: list[int]) -> None: ...

    def swapped(self, second: int, first: int) -> None: ...

    def grown(self, first: int, *, third: int = 0, second: int = 0) -> None: ...


@dataclass
class Block:
    ref_cnt: int


@pytest.fixture(autouse=True)
def module(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    made = ModuleType("made")
    made.Pool, made.Block = Pool, Block  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made", made)


@pytest.mark.parametrize(
    ("name", "parameters", "missing"),
    [
        ("made:Pool.touch", ("blocks",), None),
        ("made:Pool.grown", ("first", "second"), "made:Pool.grown has the parameter second in another place"),
        ("made:Pool.swapped", ("first",), "made:Pool.swapped has the parameter first in another place"),
        ("made:Pool.touch", ("ordered",), "made:Pool.touch has no parameter ordered: it has blocks"),
        ("made:Pool.gone", (), "made:Pool.gone is not there"),
        ("made:Gone.touch", (), "made:Gone.touch is not there"),
        ("nosuchmodule:Pool.touch", (), "nosuchmodule:Pool.touch is not there"),
    ],
)
def test_what_has_changed_is_named(monkeypatch, name, parameters, missing) -> None:
    monkeypatch.setattr(check, "PARAMETERS", {name: parameters})
    monkeypatch.setattr(check, "ATTRIBUTES", ("made:Block.ref_cnt",))
    found = list(check.what_is_missing())
    assert len(found) == (missing is not None)
    assert all(line.startswith(str(missing)) for line in found)


def test_a_scheduler_has_what_is_used_of_it(monkeypatch) -> None:
    monkeypatch.setattr(check, "OF_A_SCHEDULER", ("waiting", "cache.pool", "cache.gone"))
    made = SimpleNamespace(waiting=[], cache=SimpleNamespace(pool=1))
    assert list(check.of_a_scheduler(made)) == ["a scheduler has no cache.gone"]


def test_it_is_refused_with_all_of_it() -> None:
    check.require(iter(()))
    with pytest.raises(Unsupported, match=r"not as agentcg knows it: one; two") as caught:
        check.require(iter(("one", "two")))
    assert "docs/engines.md" in caught.value.hint
