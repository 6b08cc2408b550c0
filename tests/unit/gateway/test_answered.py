# SPDX-License-Identifier: Apache-2.0
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentcg.gateway.answered import Answered

CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
TIMINGS = {"cache_n": 90, "prompt_n": 10, "predicted_n": 5, "prompt_ms": 20.0, "unheard_of": []}


def events(*said: Any, end: str = "\n\n") -> bytes:
    lines = [f"data: {each if isinstance(each, str) else json.dumps(each)}{end}" for each in said]
    return "".join([": ping\n", "event: x\n", *lines]).encode()


STREAM = events(
    {"choices": [{"delta": {"role": "assistant", "content": None}}]},
    {"choices": [{"delta": {"tool_calls": [CALL]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "more"}}]}}]},
    {"choices": [{"delta": {}, "finish_reason": "tool_calls"}], "timings": TIMINGS},
    "[DONE]",
)


def whole(data: bytes, *, streamed: bool) -> Answered:
    answered = Answered(streamed=streamed)
    answered.feed(data)
    answered.end()
    return answered


def test_a_whole_answer() -> None:
    usage = {"total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 100}}
    answer = {"choices": [{"message": {"tool_calls": [CALL]}}], "usage": usage}
    said = whole(json.dumps(answer).encode(), streamed=False)
    assert (said.tool, said.tokens, said.cached, said.computed) == ("bash", 120, 100, None)


def test_the_older_form_of_a_call() -> None:
    said = whole(b'{"choices":[{"message":{"function_call":{"name":"grep"}}}]}', streamed=False)
    assert said.tool == "grep"


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_a_streamed_answer(end: str) -> None:
    said = whole(STREAM.replace(b"\n\n", end.encode()), streamed=True)
    assert (said.tool, said.tokens, said.cached) == ("bash", 105, 90)
    assert said.computed == (10, pytest.approx(0.02))


@given(some.lists(some.integers(1, len(STREAM) - 1), unique=True))
def test_wherever_it_is_cut_it_says_the_same(cuts: list[int]) -> None:
    said = Answered(streamed=True)
    ends = [0, *sorted(cuts), len(STREAM)]
    for begin, end in pairwise(ends):
        said.feed(STREAM[begin:end])
    said.end()
    assert (said.tool, said.tokens, said.cached) == ("bash", 105, 90)


@given(some.lists(some.binary(max_size=50)), some.booleans())
def test_nothing_raises(parts: list[bytes], streamed: bool) -> None:
    said = Answered(streamed=streamed)
    for part in parts:
        said.feed(part)
    said.end()
    said.feed(b"late")
    assert said.tool == ""


@pytest.mark.parametrize(
    "said",
    [
        {"choices": 7},
        {"choices": [None]},
        {"choices": [{"message": {"tool_calls": [{"function": {"name": 5}}]}}]},
        {"usage": {"total_tokens": "many"}},
        {"timings": {"cache_n": 1}},
        {"error": {"message": "no"}},
    ],
)
def test_what_is_not_understood_says_nothing(said: Any) -> None:
    answered = whole(json.dumps(said).encode(), streamed=False)
    assert (answered.tool, answered.tokens, answered.cached, answered.computed) == ("", None, None, None)


def test_one_event_that_is_not_understood_hides_no_other() -> None:
    assert whole(events("{", {"choices": 7}) + STREAM, streamed=True).tool == "bash"


def test_an_endless_answer_is_not_kept() -> None:
    for streamed in (True, False):
        said = Answered(streamed=streamed)
        for _ in range(20):
            said.feed(b"x" * (1 << 20))
        said.end()
        assert said.tokens is None
        assert said._rest == b""
