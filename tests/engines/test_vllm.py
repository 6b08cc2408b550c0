# SPDX-License-Identifier: Apache-2.0
"""Our scheduler inside vLLM: its real scheduler, KV-cache manager and block pool, with a model that answers at once.

Run it where vLLM is installed (docs/engines.md says how, without a GPU)::

    python -m pytest tests/engines/test_vllm.py -m long
"""

from types import SimpleNamespace

import pytest

from agentcg.api.types import KvEvent, KvForecast
from agentcg.errors import Unsupported
from agentcg.kv.engines.signals import remaining
from agentcg.kv.engines.vllm.check import of_a_scheduler, require, what_is_missing
from agentcg.kv.policies import POLICIES
from agentcg.kv.state import CallEvent
from agentcg.predict.distribution import Distribution
from tests.engines.conftest import prompt

pytestmark = pytest.mark.long

A = "u0/a"
FIRST = prompt(1, 480)
"""30 of the 127 blocks that there are."""
MORE = [*FIRST, *prompt(9, 100)]


def two_turns(server):
    """Serve a session's turn, requests that need all of the cache, its next turn; return what was cached of that."""
    server.turn("a1", FIRST, session=A)
    for number in range(3):
        server.turn(f"x{number}", prompt(2 + number, 800))
    return server.turn("a2", MORE, session=A)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_session_finds_its_cache_where_stock_has_lost_it(new_vllm, asynchronous) -> None:
    assert two_turns(new_vllm(None, asynchronous=asynchronous)) == 0
    server = new_vllm(asynchronous=asynchronous)
    assert two_turns(server) == 480


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - {"clairvoyant"}))
def test_every_policy_serves(new_vllm, policy) -> None:
    cached = two_turns(new_vllm(policy))
    assert cached in (0, 480)
    assert cached == 480 or policy in ("lru", "program_lru", "plas", "mars_admission", "continuum", "continuum_literal")


def test_one_that_is_last_is_not_kept(new_vllm) -> None:
    server = new_vllm()
    server.turn("a1", FIRST, session=A, agentcg_last=1)
    assert not server.keeper.pins
    assert not server.keeper.retention.state.sessions


def test_sessions_are_served_by_their_arrival(new_vllm) -> None:
    server = new_vllm(running_max=1)
    server.turn("a1", prompt(1, 32), session=A)
    server.turn("b1", prompt(2, 32), session="u0/b")
    server.ask("x", prompt(3, 32))
    server.step()
    for name, session in (("y", None), ("b2", "u0/b"), ("a2", A)):
        server.ask(name, prompt(4, 200), session=session)
    server.serve("a2")
    assert list(server.requests) == ["y", "b2"]
    server.serve("b2")
    assert list(server.requests) == ["y"]


def fill(server, sec_per_token=0.01):
    """Pin a session's 30 blocks beside a request that runs on and on; what is left is too little for another."""
    server.keeper.prefill.observe(1000, 1000 * sec_per_token)
    server.keeper.prefill.observe = lambda tokens, sec: None
    server.turn("a1", FIRST, session=A)
    server.ask("long", prompt(2, 800), answer=600)
    server.step()


def test_a_pin_is_given_up_when_somebody_has_waited_for_as_long_as_it_is_worth(new_vllm) -> None:
    server = new_vllm()
    fill(server)
    server.ask("new", prompt(3, 800))
    server.step()
    server.pause(4.7)
    server.step()
    assert len(server.keeper.pins[A]) == 30
    assert not server.requests["new"].num_computed_tokens
    server.pause(0.2)
    server.step()
    assert 0 < len(server.keeper.pins[A]) < 30  # What the other lacked.
    assert server.requests["new"].num_computed_tokens
    server.serve("new")
    assert server.turn("a2", MORE, session=A) >= 400  # Which took no more of it than it had to.


def test_a_pin_that_is_hard_is_kept_from_who_waits(new_vllm) -> None:
    server = new_vllm("fixed_ttl")
    fill(server)
    server.ask("new", prompt(3, 800))
    server.pause(7.0)
    server.step()
    assert len(server.keeper.pins[A]) == 30
    assert not server.requests["new"].num_computed_tokens
    server.pause(1.5)
    server.step()
    assert not server.keeper.pins
    assert server.requests["new"].num_computed_tokens


def waits_for(server, event=None, remaining=None):
    """Return how long somebody waits until a pin goes, in seconds."""
    fill(server)
    if event is not None:
        server.keeper.retention.call(A, CallEvent("c1", "began", remaining), server.now)
        server.keeper.retention.call(A, CallEvent("c1", event), server.now)
    server.ask("new", prompt(3, 800))
    since = server.now
    for _ in range(500):
        server.step()
        if A not in server.keeper.pins or len(server.keeper.pins[A]) < 30:
            return server.now - since
    raise AssertionError("the pin is kept")


def test_what_is_frozen_goes_earlier_and_what_is_nearly_over_stays_longer(new_vllm) -> None:
    soon = Distribution((4.0,), (1.0,), 0.0, 1.0)
    far = Distribution((60.0,), (1.0,), 0.0, 1.0)
    unknown = waits_for(new_vllm())
    assert unknown == pytest.approx(4.8, abs=0.1)
    assert waits_for(new_vllm(), "frozen", far) == pytest.approx(2.4, abs=0.1)
    assert waits_for(new_vllm(), "revised", soon) > unknown


def test_whoever_is_back_gets_on_though_the_cache_is_full_of_pins(new_vllm) -> None:
    server = new_vllm()
    for who in range(4):
        server.turn(f"s{who}", prompt(1 + who, 480), session=f"u0/s{who}")
    assert sum(map(len, server.keeper.pins.values())) == 120
    longer = [*prompt(1, 480), *prompt(9, 400)]
    assert server.turn("back", longer, session="u0/s0") == 480
    assert len(server.keeper.pins["u0/s0"]) == 55
    assert "u0/s1" in server.keeper.pins  # The earlier session has lost least.


def test_a_cache_that_is_too_small_for_two(new_vllm) -> None:
    server = new_vllm("evict_latest", blocks=34)  # Which protects everything, for ever.
    for turn in range(3):
        for who in range(3):
            server.turn(f"{who}-{turn}", prompt(1 + who, 400 + 32 * turn), session=f"u0/s{who}")
    for who in range(3):
        server.ask(f"{who}-3", prompt(1 + who, 500), session=f"u0/s{who}")
    server.ask("whole", prompt(7, 33 * 16 - 4))
    server.serve("0-3", "1-3", "2-3", "whole")


def test_running_requests_take_pins_before_anybody_is_put_back(new_vllm) -> None:
    server = new_vllm()
    for who in range(4):
        server.turn(f"s{who}", prompt(1 + who, 480), session=f"u0/s{who}")
    request = server.ask("grows", prompt(7, 100), answer=300)
    server.serve("grows")
    assert request.num_preemptions == 0


def test_who_was_put_back_is_served(new_vllm) -> None:
    server = new_vllm(blocks=64)
    requests = [server.ask(f"r{who}", prompt(1 + who, 400), session=f"u0/s{who}", answer=200) for who in range(2)]
    server.serve("r0", "r1")
    assert [request.num_preemptions for request in requests] == [0, 1]
    assert server.turn("r2", prompt(1, 400) + [7] * 100, session="u0/s0") > 0


def test_the_cache_is_reset(new_vllm) -> None:
    server = new_vllm()
    server.turn("a1", FIRST, session=A)
    assert server.made.reset_prefix_cache()
    assert not server.keeper.pins
    assert server.turn("a2", MORE, session=A) == 0
    server.ask("a3", [*MORE, *prompt(8, 50)], session=A)
    server.step()
    assert server.made.reset_prefix_cache(reset_running_requests=True)
    server.serve("a3")


@pytest.mark.parametrize("runs", [False, True])
def test_a_request_is_aborted(new_vllm, runs) -> None:
    from vllm.v1.request import RequestStatus

    server = new_vllm()
    server.turn("a1", FIRST, session=A)
    server.ask("a2", MORE, session=A, answer=50)
    if runs:
        server.step()
    server.made.finish_requests("a2", RequestStatus.FINISHED_ABORTED)
    del server.requests["a2"]
    server.check()
    assert bool(server.keeper.pins) is not runs
    assert server.turn("a3", MORE, session=A) >= 480


def test_two_turns_of_one_session_at_once(new_vllm) -> None:
    server = new_vllm()
    server.turn("a1", FIRST, session=A)
    server.ask("a2", MORE, session=A)
    server.ask("a3", [*FIRST, *prompt(8, 200)], session=A, answer=20)
    server.serve("a2", "a3")
    assert (server.cached["a2"], server.cached["a3"]) == (480, 480)
    assert server.turn("a4", [*FIRST, *prompt(8, 200), *prompt(6, 20)], session=A) == 672


def test_a_context_that_was_compacted(new_vllm) -> None:
    server = new_vllm()
    server.turn("a1", prompt(1, 1500), session=A)
    assert server.turn("a2", [*prompt(1, 160), *prompt(5, 1300)], session=A) == 160
    assert server.turn("a3", prompt(6, 1900), session=A) == 0


def test_a_call_that_does_not_return(new_vllm) -> None:
    server = new_vllm()
    server.turn("a1", FIRST, session=A)
    server.keeper.retention.call(A, CallEvent("c1", "began"), server.now)
    server.pause(601.0)
    server.step()
    assert not server.keeper.pins
    assert server.turn("a2", MORE, session=A) == 480  # Nobody has needed it.


def test_clocks_that_jump(new_vllm) -> None:
    server = new_vllm()
    server.turn("a1", FIRST, session=A)
    for jump in (-1e6, 5.0, -50.0):
        server.pause(jump)
        server.ask(f"x{jump}", prompt(3, 800))
        server.serve(f"x{jump}")
    assert server.turn("a2", MORE, session=A) == 480
    server.pause(1e12)
    assert server.turn("a3", MORE, session=A) > 0


def test_without_prefix_caching_and_with_priorities_it_serves(new_vllm, caplog) -> None:
    server = new_vllm(caching=False)
    assert "prefix caching is off" in caplog.text
    assert two_turns(server) == 0
    assert two_turns(new_vllm(options={"policy": "priority"})) == 480


def test_what_cannot_be_kept_is_said() -> None:
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheGroupSpec, SlidingWindowSpec

    from agentcg.kv.engines.vllm.cache import why_nothing_is_kept

    given = {"block_size": 16, "num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
    full = KVCacheGroupSpec(["a"], FullAttentionSpec(**given))
    window = KVCacheGroupSpec(["b"], SlidingWindowSpec(**given, sliding_window=64))
    caching = SimpleNamespace(enable_prefix_caching=True)
    assert not why_nothing_is_kept(SimpleNamespace(kv_cache_groups=[full]), caching)
    for groups in ([window], [full, window], []):
        assert "full attention" in why_nothing_is_kept(SimpleNamespace(kv_cache_groups=groups), caching)


def test_what_is_kept_counts_as_free_in_the_statistics(new_vllm) -> None:
    server = new_vllm()
    server.turn("a1", FIRST, session=A)
    server.ask("b1", prompt(2, 160), session="u0/b", answer=9)
    server.step()
    assert server.made.get_kv_cache_usage() == pytest.approx(10 / 127)
    assert server.made.make_stats().kv_cache_usage == pytest.approx(10 / 127)


def test_what_the_daemon_says_is_heard_and_it_is_told(new_vllm) -> None:
    server = new_vllm()
    coordinator, sessions = server.made._agentcg_coordinator, server.keeper.retention.state.sessions
    server.turn("a1", FIRST, session=A)
    server.turn("mine", prompt(2, 64), session="no-session-of-the-daemon")
    server.step()
    (said,) = coordinator._unsaid.values()
    assert (said.session, said.tokens, said.bytes, said.turns, said.pinnedSec) == (A, 480, 30 * 128, None, 10.0)
    began, forecast = server.now, KvForecast(1.0, 2.0, 3.0, 2.0)
    coordinator._heard.append((began, KvEvent("began", A, f"{A}/c1", forecast)))
    server.pause(1.5)  # Nobody is served meanwhile: vLLM does not schedule, and the call goes on all the same.
    server.step()
    assert sessions[A].left(server.now) == remaining(forecast).after(server.now - began)
    server.ask("a2", MORE, session=A)
    server.ask("x", prompt(3, 1600))
    server.step()
    assert coordinator._unsaid[A].turns == 1
    assert coordinator._unsaid[A].hit
    assert (coordinator.queue.waiting, coordinator.queue.freeBlocks) == (1, 127 - 37 - 4)
    server.serve("a2", "x")
    server.step()
    assert coordinator.queue.waiting == 0
    coordinator._heard.append((server.now, KvEvent("closed", A)))
    server.pause(1.0)
    server.step()
    assert A not in sessions
    assert A not in server.keeper.pins


def test_pins_are_reported_again_before_they_are_taken_to_be_over(new_vllm) -> None:
    server = new_vllm()
    server.turn("a1", FIRST, session=A)
    server.step()
    server.made._agentcg_coordinator._unsaid.clear()
    for _ in range(6):
        server.pause(1.0)
        server.step()
    assert A in server.made._agentcg_coordinator._unsaid


def test_a_vllm_whose_internals_have_moved_is_refused(new_vllm, monkeypatch) -> None:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    server = new_vllm()
    assert list(what_is_missing()) == []
    monkeypatch.delattr(BlockPool, "touch")
    monkeypatch.setattr(KVCacheManager, "get_blocks", lambda self, request: None)
    with pytest.raises(Unsupported) as caught:
        require(what_is_missing())
    assert "block_pool:BlockPool.touch is not there" in str(caught.value)
    assert "KVCacheManager.get_blocks has no parameter request_id: it has request" in str(caught.value)
    with pytest.raises(Unsupported, match="touch"):
        new_vllm()
    del server.made.deferred_waiting
    with pytest.raises(Unsupported, match="a scheduler has no deferred_waiting"):
        require(of_a_scheduler(server.made))
