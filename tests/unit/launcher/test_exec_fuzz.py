# SPDX-License-Identifier: Apache-2.0
"""Replies of every kind. The launcher is one in which a bad access or an undefined operation is exit status 99."""

import contextlib
import json
import os
import socket
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
dumps = st.sampled_from(
    [json.dumps, lambda value: json.dumps(value, ensure_ascii=False, indent=1), lambda value: json.dumps(value)[:-1]]
)
names = st.sampled_from(
    ["parameters", "error", "call", "procs", "environment", "oomScoreAdj", "verdict", "advice", "message", "place"]
)
shaped = st.recursive(
    st.sampled_from(["a/b/c", "dev.agentcg.Failed", 0, 1, -1, None, "", "\0", "=", "\ud800"]) | st.text(max_size=4),
    lambda inner: st.dictionaries(names | st.text(max_size=3), inner, max_size=6),
    max_leaves=12,
)
GOOD = {"parameters": {"call": "a/b/c", "procs": 0, "environment": {"A": "é\n"}, "oomScoreAdj": 0}}
END = {"parameters": {"verdict": {"advice": "use less \ud83d\ude42", "outcome": "ok"}}}


@st.composite
def mutated(draw: st.DrawFn, good: dict[str, object]) -> bytes:
    data = bytearray(json.dumps(good).encode())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from(
                [b"", b'"', b"\\", b"\\u", b"{", b"}", b"[", b",", b"\xff", b"\xe2\x82", b"\0", b"1e9", b"-"]
            )
            | st.binary(max_size=2)
        )
    return bytes(data)


def replies(good: dict[str, object]) -> st.SearchStrategy[bytes]:
    shapes = st.builds(lambda dump, value: dump(value).encode("utf-8", "replace"), dumps, values | shaped)
    return st.one_of(mutated(good), mutated(good), shapes, st.binary(max_size=60))


class Parrot:
    """Answers with what it is told to, whatever is asked; the descriptor comes with the first answer."""

    def __init__(self, path, procs):
        self.answers = []
        self._procs = procs
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                for index, answer in enumerate(self.answers):
                    part = b"-"
                    while part and not part.endswith(b"\0"):
                        part = connection.recv(65536)
                    socket.send_fds(connection, [answer + b"\0"], [self._procs] if index == 0 else [])

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


@pytest.fixture(scope="module")
def say(checked_launcher, tmp_path_factory):
    """Run the launcher against the two answers."""
    folder = tmp_path_factory.mktemp("fuzz")
    procs = os.open(folder / "procs", os.O_WRONLY | os.O_CREAT)
    parrot = Parrot(str(folder / "s"), procs)
    environment = {
        "PATH": os.environ["PATH"],
        "ASAN_OPTIONS": "exitcode=99:detect_leaks=0",
        "UBSAN_OPTIONS": "exitcode=99",
    }
    options = ["--socket", str(folder / "s"), "--without-daemon", "fail", "--timeout", "5"]

    def say(*answers, arguments=()):
        parrot.answers = answers
        ran = subprocess.run(
            [checked_launcher, *options, *arguments, "true"],
            env=environment,
            capture_output=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
        assert b"Sanitizer" not in ran.stderr, ran.stderr.decode()
        assert b"runtime error" not in ran.stderr, ran.stderr.decode()
        return ran

    yield say
    parrot.close()
    os.close(procs)


@settings(max_examples=150, deadline=None)
@given(replies(GOOD))
def test_no_answer_to_begin_breaks_it(say, answer):
    # 0 where the change left a good reply, or named a nested call.
    assert say(answer, json.dumps(END).encode()).returncode in (0, 125)


@settings(max_examples=100, deadline=None)
@given(replies(END), st.sampled_from(["text", "json"]))
def test_no_answer_to_end_changes_the_status(say, answer, form):
    # A NUL inside the answer ends it early: what is behind it is a second message.
    assert say(json.dumps(GOOD).encode(), answer, arguments=["--verdict", form]).returncode == 0


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=8), values, max_size=4), st.booleans())
def test_any_verdict_is_passed_on_as_it_is(say, verdict, pretty):
    text = json.dumps(END | {"x": verdict, "parameters": {"y": verdict, "verdict": verdict}}, indent=pretty or None)
    ran = say(json.dumps(GOOD).encode(), text.encode("utf-8", "replace"), arguments=["--verdict", "json"])
    assert ran.returncode == 0
    assert ran.stderr.count(b"\n") == 1
    assert json.loads(ran.stderr) == verdict


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.booleans())
def test_any_advice_is_read_right(say, advice, ascii_only):
    text = json.dumps({"parameters": {"verdict": {"advice": advice}}}, ensure_ascii=ascii_only)
    ran = say(json.dumps(GOOD).encode(), text.encode())
    assert ran.stderr.decode() == f"agentcg: {advice}\n"


@pytest.mark.parametrize(
    ("text", "valid"),
    [(depth * "[" + depth * "]", depth <= 63) for depth in (62, 63, 64, 65)]
    + [(text, True) for text in ("-0", "1e5", "1.5E-3", "[ ]", "{ }", r'"\u00e9\/\b\f"', " true ")]
    + [
        (text, False)
        for text in ("01", "1.", ".5", "+1", "1e", "-", "NaN", "[1,]", "{,}", '{"a"}', '{"a":1,}', "[1 2]")
    ]
    + [(text, False) for text in ('"\t"', r'"\x"', r'"\u12g4"', '"', "tru", "nul", "", "{1:2}", "'a'")],
)
def test_json_is_read_strictly(launcher, tmp_path, text, valid):
    # The value stands one level deep in the option.
    ran = subprocess.run(
        [launcher, "--socket", str(tmp_path / "none"), "--intent", f'{{"a":{text}}}', "true"],
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert ran.returncode == (0 if valid else 125), ran.stderr
    assert ("is not a JSON object" in ran.stderr) is not valid
