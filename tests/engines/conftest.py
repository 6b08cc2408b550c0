# SPDX-License-Identifier: Apache-2.0
"""vLLM's own scheduler under a clock that the test moves."""

from collections.abc import Callable
from typing import Any

import pytest
from benches.vllm_steps import OURS, Server

STEP_SEC = 0.02


class TestServer(Server):
    __test__ = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.now = 100.0
        self.cached: dict[str, int] = {}
        self.keeper = getattr(self.made, "_agentcg", None)
        if self.keeper is not None:
            self.keeper.clock = lambda: self.now

    def step(self) -> Any:
        self.now += STEP_SEC
        output = super().step()
        for new in output.scheduled_new_reqs:
            self.cached.setdefault(new.req_id, new.num_computed_tokens)
        self.check()
        return output

    def serve(self, *names: str, most: int = 500) -> None:
        """Step until these requests are answered."""
        for _ in range(most):
            if not any(name in self.requests for name in names):
                return
            self.step()
        raise AssertionError(f"{names} are not served after {most} steps: {self.made.get_request_counts()}")

    def turn(self, name: str, prompt: list[int], **options: Any) -> int:
        """Serve a request; return how many of its tokens were cached."""
        self.ask(name, prompt, **options)
        self.serve(name)
        return self.cached[name]

    def pause(self, sec: float) -> None:
        """Let time pass in which nothing is scheduled."""
        self.now += sec

    def check(self) -> None:
        """Every block is where it should be: free, or held as often as somebody holds it."""
        if self.keeper is None:
            return
        pool = self.made.kv_cache_manager.block_pool
        held = [block for pin in self.keeper.pins.values() for block in pin]
        for request in self.made.requests:
            held += [block for group in self.made.kv_cache_manager.get_blocks(request).blocks for block in group]
        count: dict[int, int] = {}
        for block in held:
            count[block.block_id] = count.get(block.block_id, 0) + 1
        found = {block.block_id: block.ref_cnt for block in pool.blocks if block.ref_cnt and not block.is_null}
        assert found == count
        assert pool.get_num_free_blocks() == len(pool.blocks) - 1 - len(count)


@pytest.fixture
def new_vllm(tmp_path, monkeypatch) -> Callable[..., TestServer]:
    """Return a function that makes a server; ``policy`` is ours, None is vLLM's own scheduler."""

    def make(policy: str | None = "soft_pins", **options: Any) -> TestServer:
        if policy is not None:
            monkeypatch.setenv("AGENTCG_VLLM_POLICY", policy)
            monkeypatch.setenv("AGENTCG_SOCKET", str(tmp_path / "nobody"))
            options["scheduler"] = OURS
        return TestServer(str(tmp_path), **options)

    return make


def prompt(who: int, tokens: int) -> list[int]:
    """Return so many tokens that no other session begins with."""
    return [who * 100 + place % 90 for place in range(tokens)]
