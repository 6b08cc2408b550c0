# SPDX-License-Identifier: Apache-2.0
"""What is said of a call and of a session: names and values, in seconds and bytes.

``gen_ai.*``, ``error.type`` and ``process.exit.code`` are the semantic conventions', github.com/open-telemetry/
semantic-conventions-genai, "Semantic conventions for generative AI tool execution"; ``agentcg.*`` is ours. A value that
is None is not said.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from agentcg.model import Session, Verdict
from agentcg.policy.match import command_key
from agentcg.trace.otlp import EXIT_CODE
from agentcg.trace.source import cut

__all__ = ["call_attributes", "failed", "session_attributes", "tool_name"]


def failed(verdict: Verdict) -> bool:
    """Whether a call's span is an error: not if nobody knows how it ended."""
    return verdict.outcome not in ("ok", "unknown")


def tool_name(verdict: Verdict) -> str:
    """Return the tool's name; of a call that has none, what its command is called in the history."""
    return verdict.tool or command_key("", verdict.command) or "unknown"


def call_attributes(verdict: Verdict, *, content: bool) -> dict[str, Any]:
    """Return what is said of a call; its command, which may hold secrets, only with ``content``."""
    ref = verdict.ref
    said: dict[str, Any] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool_name(verdict),
        "gen_ai.tool.call.id": ref.call,
        "gen_ai.conversation.id": str(ref.session),
        "agentcg.tenant": ref.session.tenant,
        "agentcg.session": str(ref.session),
        "agentcg.class": verdict.call_class,
        "agentcg.kind": command_key(verdict.tool, verdict.command),
        "agentcg.outcome": verdict.outcome,
        "agentcg.throttled": verdict.throttled,
        "agentcg.reason": cut(verdict.reason) or None,
        "agentcg.signal": verdict.signal,
        EXIT_CODE: verdict.exit_code,
        "error.type": verdict.outcome if failed(verdict) else None,
    }
    if content and verdict.command:
        said["gen_ai.tool.call.arguments"] = json.dumps({"command": verdict.command})
    return said | _fields("usage", verdict.usage) | _fields("limits", verdict.limits)


def session_attributes(session: Session, reason: str) -> dict[str, Any]:
    """Return what is said of a session that was closed."""
    said = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": session.ref.session,
        "gen_ai.conversation.id": str(session.ref),
        "agentcg.tenant": session.ref.tenant,
        "agentcg.session": str(session.ref),
        "agentcg.protected": session.protected,
        "agentcg.reason": cut(reason),
    }
    return said | _fields("budget", session.budget)


def _fields(prefix: str, value: Any) -> dict[str, Any]:
    return {f"agentcg.{prefix}.{name}": field for name, field in asdict(value).items()}
