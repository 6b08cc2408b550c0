# SPDX-License-Identifier: Apache-2.0
import shlex
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentcg.policy.shell import simple_commands


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("", []),
        ("pytest -x", [["pytest", "-x"]]),
        ("cd a && pytest; ls | wc & true", [["cd", "a"], ["pytest"], ["ls"], ["wc"], ["true"]]),
        ("(cd a; make) || { echo no; }", [["cd", "a"], ["make"], ["echo", "no"]]),
        ("A=1 B='x y' make # not; this", [["make"]]),
        ("echo ';' pytest", [["echo", ";", "pytest"]]),
        (r'grep "a\"; pytest" b\ c', [["grep", 'a"; pytest', "b c"]]),
        ("pytest > out.txt 2>&1 < in &>>log | tail -1", [["pytest"], ["tail", "-1"]]),
        ("cat <<'EOF' > x.py && pytest x.py\nimport os; os.fork()\nEOF\nls", [["cat"], ["pytest", "x.py"], ["ls"]]),
        ("cat <<-A <<B\n\tone\n\tA\ntwo\nB\nls", [["cat"], ["ls"]]),
        ("cat <<< pytest", [["cat"]]),
        ("for f in *.py; do python3 $f; done", [["python", "$f"]]),
        ("if test -e x; then make; else ninja; fi", [["test", "-e", "x"], ["make"], ["ninja"]]),
        ("echo $(pytest -q)", [["echo", "$"], ["pytest", "-q"]]),
        ("make \\\n  all", [["make", "all"]]),
    ],
)
def test_a_line_is_split_into_its_commands(text, commands):
    assert simple_commands(text) == commands


@pytest.mark.parametrize(
    "text",
    [
        "/usr/bin/pytest -x", "sudo -u me pytest -x", "env -i A=1 pytest -x", "timeout -k 5 60 pytest -x",
        "nice -n 10 pytest -x", "nice -10 pytest -x", "time pytest -x", "exec pytest -x", "command pytest -x",
        "stdbuf -oL -e 0 pytest -x", "xvfb-run -a pytest -x", "poetry run pytest -x", "uv run --with a pytest -x",
        "A=1 timeout 60 nice env B=2 pytest -x", "sh -c 'pytest -x'", "bash -lc 'pytest -x'", "eval 'pytest -x'",
        "bash -euo pipefail -c 'pytest -x'", "sudo bash -c \"sh -c 'pytest -x'\"", "find . | xargs -n 1 pytest -x",
        "coverage() { pytest -x; }",
    ],
)  # fmt: skip
def test_wrappers_and_shells_are_looked_through(text):
    assert ["pytest", "-x"] in simple_commands(text)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/usr/bin/python3.11 -u -X dev -m pytest a", ["python", "-m", "pytest", "a"]),
        ("pip3 -q install x", ["pip", "install", "x"]),
        ("git -C dir --no-pager status", ["git", "status"]),
        ("command -v pytest", ["command", "-v", "pytest"]),
        ("bash script.sh -c", ["bash", "script.sh", "-c"]),
        ("env", ["env"]),
    ],
)
def test_the_head_is_brought_to_one_form(text, command):
    assert simple_commands(text) == [command]


def test_a_shell_in_a_shell_in_a_shell_is_left_alone():
    text = "pytest"
    for _ in range(50):
        text = shlex.join(["sh", "-c", text])[:100_000]
    assert simple_commands(text)[0][:2] == ["sh", "-c"]


def test_an_open_quote_runs_to_the_end_and_hides_nothing_before_it():
    assert simple_commands("cd a && pytest -k 'one") == [["cd", "a"], ["pytest", "-k", "one"]]


_PIECES = [*"ab'\"\\\n;&|()<>{}#$` =-/\0é1", "<<", "sh -c ", "env ", "EOF"]
_SHELLISH = st.lists(st.sampled_from(_PIECES)).map("".join)


@given(st.one_of(st.text(), _SHELLISH))
@example("\\")
@example('"\\')
@example("<<")
@example("sudo")
@example("''")
def test_nothing_makes_it_fail(text):
    for words in simple_commands(text):
        assert words
        assert all(isinstance(word, str) for word in words)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)))
def test_quoted_words_come_back_as_they_were(words):
    words = ["prog", *words]
    assert simple_commands(shlex.join(words)) == [words]


@pytest.mark.parametrize(
    "unit", ["'", '"', "\\", "<<", "<<a\n", "(", "sh -c ", "a=", "1", "#", '"\\', "sudo -u ", "$("]
)
def test_long_lines_take_time_in_proportion(unit):
    def seconds(length):
        text = (unit * length)[:length]
        begin = time.process_time()
        simple_commands(text)
        return time.process_time() - begin

    # Quadratic would be 256 times as long; the floor takes out what a busy machine adds to CPU time.
    assert seconds(65536) < 64 * max(min(seconds(4096) for _ in range(3)), 0.005)
