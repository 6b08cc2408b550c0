# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentcg.gateway.asked import Asked, insert, read_request

CHAT = "/v1/chat/completions"
SYSTEM, USER = {"role": "system", "content": "you are"}, {"role": "user", "content": "fix it"}


def asked(path: str = CHAT, **body: Any) -> Asked:
    found = read_request(path, json.dumps(body).encode())
    assert found is not None
    return found


def test_a_chat_is_its_tools_and_messages() -> None:
    tools = [{"type": "function", "function": {"name": "bash"}}]
    found = asked(messages=[SYSTEM, USER], tools=tools, stream=True, temperature=0.5, unheard_of={"a": [1]})
    assert [json.loads(piece) for piece in found.pieces] == [tools, SYSTEM, USER]
    assert found.preamble == 2
    assert (found.has_slot, found.has_cache_prompt, found.has_xargs) == (False, False, False)
    assert found.tokens == sum(map(len, found.pieces)) // 4


def test_a_prompt_grows_by_pieces() -> None:
    short = asked("/v1/completions", prompt="x" * 1000)
    long = asked("/completion", prompt="x" * 1000 + "y" * 500)
    assert list(long.pieces[: len(short.pieces)]) == list(short.pieces)
    assert short.preamble == len(short.pieces) > 10
    assert asked("/v1/completions", prompt="x").pieces == [b'"x"']


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b""),
        (CHAT, b"{"),
        (CHAT, b"[]"),
        (CHAT, b"{}"),
        (CHAT, b'{"messages":7}'),
        (CHAT, b'{"messages":[]}'),
        (CHAT, b'{"messages":[{"role":7}]}'),
        (CHAT, b'{"messages":["a"]}'),
        (CHAT, b'{"messages":null,"prompt":["a"]}'),
        (CHAT, '{"messages":[{"role":"user"}]}'.encode("utf-16")),
        (CHAT, b"\xff\xfe"),
        ("/v1/embeddings", b'{"input":"a"}'),
        ("/v1/models", b'{"messages":[{"role":"user","content":"a"}]}'),
    ],
)
def test_what_is_no_turn_or_not_understood_is_none(path: str, body: bytes) -> None:
    assert read_request(path, body) is None


@given(some.binary(max_size=200) | some.text(max_size=200).map(lambda text: b'{"messages":[' + text.encode() + b"]}"))
def test_nothing_raises(body: bytes) -> None:
    read_request(CHAT, body)


JSON = some.recursive(some.none() | some.integers() | some.text(max_size=5), some.lists, max_leaves=5)


@given(some.dictionaries(some.text(max_size=12), JSON, max_size=4), some.sampled_from([None, 0, 1]))
def test_what_is_inserted_changes_nothing_else(other: dict[str, Any], indent: int | None) -> None:
    other.pop("id_slot", None)
    other.pop("cache_prompt", None)
    given_body = {**other, "messages": [USER], "tools": []}
    body = b" \n" + json.dumps(given_body, indent=indent).encode()
    found = read_request(CHAT, body)
    assert found is not None
    added = {"id_slot": 2, "cache_prompt": True}
    assert json.loads(insert(body, added)) == {**given_body, **added}
    assert insert(body, {}) == body


def test_what_the_client_says_itself_is_seen() -> None:
    found = asked(messages=[USER], cache_prompt=False, id_slot=1, vllm_xargs={})
    assert (found.has_slot, found.has_cache_prompt, found.has_xargs) == (True, True, True)
