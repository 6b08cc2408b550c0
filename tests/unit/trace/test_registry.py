# SPDX-License-Identifier: Apache-2.0
"""Which format a file is in, and that none brings an importer down."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcg.errors import InvalidInput
from agentcg.trace.format import read, write
from agentcg.trace.importer import Source
from agentcg.trace.registry import IMPORTERS, RECORDINGS, find_sources, named

DATA = Path(__file__).parent / "data"
ATTEMPTS = Path(__file__).parents[2] / "data" / "agentcgroup"
SESSION = "claude_code-project-5b0c2d7e-1111-4222-8333-944455556666"


def test_a_set_of_many_formats_is_found_each_under_a_name_of_its_own():
    found = [(importer.name, source.name) for importer, source in find_sources(DATA)]
    assert found == [
        ("agentcgroup-ebpf", "agentcgroup_ebpf-runs-study_shop"),
        ("claude-code", SESSION),
        ("mini-swe-agent", "mini_swe_agent-shop-7"),
        ("swe-agent", "swe_agent-retried"),
        ("swe-agent", "swe_agent-try-shop-7"),
        ("openhands", "openhands-sdk"),
        ("openhands", "openhands-trajectory"),
        ("otlp", "otlp-agent"),
        ("otlp", "otlp-collector"),
    ]


def test_what_one_format_has_found_is_not_looked_into_by_the_next(tmp_path):
    attempt = Path(shutil.copytree(ATTEMPTS / "made_up_set" / "example__task-1" / "attempt_1", tmp_path / "attempt_1"))
    shutil.copy(next((DATA / "claude_code" / "project").glob("5b*.jsonl")), attempt / "trace.jsonl")
    assert [importer.name for importer, _ in find_sources(tmp_path)] == ["agentcgroup"]
    assert [source.path.name for _, source in find_sources(tmp_path, [named("claude-code")])] == ["trace.jsonl"]


@pytest.mark.parametrize("importer", IMPORTERS, ids=lambda importer: importer.name)
def test_every_format_is_read_and_can_be_written(importer, tmp_path):
    top = ATTEMPTS if importer.name == "agentcgroup" else DATA
    for _, source in find_sources(top, [importer]):
        for recording in importer.read(source):
            write(recording, tmp_path / "r.jsonl")
            assert read(tmp_path / "r.jsonl") == recording


def test_a_single_file_is_found_and_has_its_own_name():
    ((importer, source),) = find_sources(DATA / "swe_agent" / "try" / "shop-7" / "shop-7.traj")
    assert (importer.name, source.name) == ("swe-agent", "shop-7")


def test_what_is_of_no_known_format_is_told_with_all_that_was_looked_for(tmp_path):
    (tmp_path / "notes.json").write_text('{"some": "thing"}')
    for path in (tmp_path, tmp_path / "notes.json"):
        with pytest.raises(InvalidInput) as caught:
            find_sources(path)
        assert caught.value.place == str(path)
        for importer in IMPORTERS:
            assert f"{importer.name}: {importer.looks_for}" in caught.value.detail


def test_a_format_that_is_named_is_taken_at_its_word(tmp_path):
    (tmp_path / "notes.json").write_text('{"some": "thing"}')
    ((importer, source),) = find_sources(tmp_path / "notes.json", [named("swe-agent")])
    with pytest.raises(InvalidInput, match=r"notes\.json: .*missing required field `trajectory`"):
        importer.read(source)
    with pytest.raises(InvalidInput, match=r"looked for swe-agent: \*\.traj with a trajectory"):
        find_sources(tmp_path, [named("swe-agent")])


def test_what_is_not_there_is_told():
    with pytest.raises(InvalidInput, match="there is no such file"):
        find_sources(DATA / "none")
    with pytest.raises(InvalidInput, match=r"there is no format 'x' .*there are agentcgroup-ebpf, agentcgroup, claude"):
        named("x")


def test_our_own_recordings_are_found_where_they_are_asked_for(tmp_path):
    ((importer, source),) = find_sources(DATA / "otlp" / "agent.json")
    (recording,) = importer.read(source)
    write(recording, tmp_path / "r.jsonl")
    with pytest.raises(InvalidInput, match="nothing of a known format"):
        find_sources(tmp_path)
    ((importer, source),) = find_sources(tmp_path, (RECORDINGS, *IMPORTERS))
    assert importer.read(source) == [recording]


def _files():
    found = [file for _, source in find_sources(DATA) for file in [source.path, *source.path.rglob("*.json*")]]
    return sorted(file for file in found if file.is_file())


def _read_all(top):
    for importer in IMPORTERS:
        for path in importer.find(top):
            try:
                importer.read(Source(path, "n"))
            except InvalidInput as error:
                assert str(error).startswith(str(top))  # noqa: PT017  only some of them raise


def _with(tmp_path, file, text):
    """The set of the file, with another text in it."""
    top = file.relative_to(DATA).parts[0]
    shutil.copytree(DATA / top, tmp_path / top, dirs_exist_ok=True)
    (tmp_path / file.relative_to(DATA)).write_bytes(text)
    return tmp_path / top


@pytest.mark.timeout(300)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.sampled_from(_files()), st.data())
def test_a_file_that_was_damaged_is_read_or_refused_with_its_place(tmp_path, file, data):
    text = file.read_bytes()
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.sampled_from([0, 1, 5, len(text)]))
    between = data.draw(st.sampled_from([b"", b"0", b'"', b"\xff", b"null", b"-1", b"{}"]))
    _read_all(_with(tmp_path, file, text[:at] + between + text[at + length :]))


def _nodes(value):
    """Every list and object in a JSON value, the value itself first."""
    if isinstance(value, (list, dict)):
        yield value
        for item in value if isinstance(value, list) else value.values():
            yield from _nodes(item)


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values |= st.just([]) | st.just({}) | st.just([[]]) | st.just({"values": [{"key": "a"}]})


@pytest.mark.timeout(300)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=500)
@given(st.sampled_from(_files()), st.data(), values)
def test_a_value_of_any_kind_anywhere_is_read_or_refused_with_its_place(tmp_path, file, data, value):
    text = file.read_text()
    one_a_line = file.suffix == ".jsonl"
    documents = [json.loads(line) for line in text.splitlines()] if one_a_line else [json.loads(text)]
    node = data.draw(st.sampled_from([node for node in _nodes(documents) if node]))
    node[data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))] = value
    _read_all(_with(tmp_path, file, "\n".join(map(json.dumps, documents)).encode()))
