# SPDX-License-Identifier: Apache-2.0
"""A server whose events are told in one line each. A thousand tokens take a second to reload."""

from collections.abc import Callable
from typing import Any

import pytest

from agentcg.kv.policies import Policy
from agentcg.kv.reload import Prefill
from agentcg.kv.retention import Retention
from agentcg.kv.state import CallEvent, Session
from agentcg.predict.distribution import Distribution


class Server:
    """A retention, with short hand for what hand-computed cases need."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.retention = Retention(policy, Prefill(0.0, 0.001))
        self.state = self.retention.state
        self._number = 0

    def ask(self, session: str, at: float, tokens: int = 1000) -> str:
        """Let a request arrive; return its name."""
        self._number += 1
        name = f"{session}-{self._number}"
        self.retention.arrive(name, session, tokens, at)
        return name

    def run(self, session: str, at: float, tokens: int = 1000) -> str:
        """Let a request arrive and run; return its name."""
        name = self.ask(session, at, tokens)
        self.retention.start(name, at)
        return name

    def turn(self, session: str, begin: float, end: float, tokens: int = 1000, tool: str = "bash") -> Session:
        """Serve a whole turn, after which the session pauses."""
        self.turns((session, begin, end, tokens), tool=tool)
        return self.state.sessions[session]

    def turns(self, *turns: tuple[str, float, float, int], tool: str = "bash") -> None:
        """Serve turns that overlap, given as (session, begin, end, tokens)."""
        running: dict[str, str] = {}
        begins, ends = ([(turn[1 + over], over, turn) for turn in turns] for over in (0, 1))
        for at, over, (session, _, _, tokens) in sorted(begins + ends):
            assert at >= self.state.now, "the story runs backwards"
            if over:
                self.retention.end(running[session], tokens, at, tool=tool)
            else:
                running[session] = self.run(session, at, tokens)

    def call(self, session: str, kind: Any, at: float, remaining: Distribution | None = None, call: str = "c") -> None:
        self.retention.call(session, CallEvent(call, kind, remaining), at)

    def protected(self, session: str, at: float) -> bool:
        return self.policy.protected(self.state, self.state.sessions[session], at)

    def given_up(self, request: str, tokens: int, at: float) -> list[tuple[str, int]]:
        return [tuple(take) for take in self.retention.give_up(request, tokens, at)]


@pytest.fixture
def new_server() -> Callable[[Policy], Server]:
    return Server
