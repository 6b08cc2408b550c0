# SPDX-License-Identifier: Apache-2.0
"""What the proxy reads and writes in messages of the Model Context Protocol: hints and verdicts, in ``_meta``.

A message is one line of JSON-RPC 2.0 (https://modelcontextprotocol.io/specification/2026-07-28/basic, and .../stdio
below it). The prefix of a key in ``_meta`` is a domain backwards, and only those with ``mcp`` or
``modelcontextprotocol`` as their second label are the protocol's own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from asyncvarlink.conversion import ConversionError, VarlinkType

from agentcg import model
from agentcg.api import types
from agentcg.errors import InvalidInput
from agentcg.policy.hint import parse_hint
from agentcg.policy.intent import merge

__all__ = ["MESSAGE_MAX", "RESOURCES", "VERDICT", "add_verdict", "hints_of", "intent_of", "is_call", "lost", "read"]
__all__ += ["tool_error", "write"]

MESSAGE_MAX = 64 << 20
"""The longest message, in bytes."""

RESOURCES = "dev.agentcg/resources"
"""In a tool's definition and in a ``tools/call``: a hint as text, or an object with the fields of an intent."""
VERDICT = "dev.agentcg/verdict"
"""In a tool's result: how its call went."""

_PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"  # In each request, since revision 2026-07-28.
_INTERNAL_ERROR = -32603  # JSON-RPC 2.0, 5.1.
_INTENT = VarlinkType.from_type_annotation(types.Intent)


def read(line: bytes) -> dict[str, Any] | list[Any] | None:
    """Return the message in a line, or the messages of a batch; None if it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict | list) else None


def write(message: dict[str, Any]) -> bytes:
    """Return a message as the line that it is sent as."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _meta(value: object) -> dict[str, Any]:
    found = value.get("_meta") if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def is_call(message: dict[str, Any]) -> bool:
    """Whether a message is a ``tools/call``."""
    return bool(message.get("method") == "tools/call")


def hints_of(result: object) -> dict[str, Any]:
    """Return the hints in the answer to a ``tools/list``, unread, by tool; None for a tool without one."""
    tools = result.get("tools") if isinstance(result, dict) else None
    found = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return {str(tool.get("name")): _meta(tool).get(RESOURCES) for tool in found}


def intent_of(tool: str, params: object, hint: object) -> model.Intent:
    """Return what a ``tools/call`` declares, field by field over the ``hint`` of its tool's definition.

    :raises InvalidInput: naming the one of the two, and the place in it, that is not acceptable
    """
    declared = _read_intent(f'tools/call: params._meta["{RESOURCES}"]', _meta(params).get(RESOURCES))
    intent = merge(declared, _read_intent(f'tools/list: {tool}._meta["{RESOURCES}"]', hint))
    expected, most = intent.memory_expected, intent.memory_max
    if expected is not None and most is not None and expected > most:  # They are from different hands.
        return replace(intent, memory_expected=most)
    return intent


def _read_intent(place: str, value: object) -> model.Intent:
    if value is None:
        return model.Intent()
    if isinstance(value, str):
        return parse_hint(value, place=place)
    try:
        return types.from_wire(model.Intent, _INTENT.fromjson(value)).validate(place)  # type: ignore[arg-type]
    except ConversionError as error:
        where = "".join(f".{step}" for step in error.location)
        hint = 'write a hint such as "memory:2g", or an object with fields such as memoryMax, in bytes'
        raise InvalidInput(f"{place}{where}", error.message, hint=hint) from error


def tool_error(request: dict[str, Any], text: str, verdict: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the result of a ``tools/call`` that failed, with ``text`` for the model to read."""
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if _PROTOCOL_VERSION in _meta(request.get("params")):
        result["resultType"] = "complete"
    if verdict is not None:
        result["_meta"] = {VERDICT: verdict}
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def lost(request: dict[str, Any], how: str, verdict: dict[str, Any] | None) -> dict[str, Any]:
    """Return the answer to a request that the server has left.

    :param how: the server ended
    :param verdict: on the call that it ended in
    """
    text = f"agentcg: {verdict['advice']} ({how})" if verdict and verdict["advice"] else f"agentcg: {how}"
    if is_call(request):
        return tool_error(request, text, verdict)
    return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": _INTERNAL_ERROR, "message": text}}


def add_verdict(answer: dict[str, Any], verdict: dict[str, Any]) -> None:
    """Put the verdict into the answer to a ``tools/call``, and its advice, if there is any, where a model reads it."""
    advice = f"agentcg: {verdict['advice']}" if verdict.get("advice") else ""
    match answer:
        case {"result": dict(result)}:
            result["_meta"] = _meta(result) | {VERDICT: verdict}
            if advice and isinstance(result.get("content"), list):
                result["content"].append({"type": "text", "text": advice})
        case {"error": dict(failure)}:
            failure.setdefault("data", {VERDICT: verdict})
            if advice:
                failure["message"] = f"{failure.get('message')} ({advice})"
