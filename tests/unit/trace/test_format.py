# SPDX-License-Identifier: Apache-2.0
"""Recording files: the round trip, every refusal with its place, cut files, and arbitrary bytes."""

import dataclasses
import json
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.model import Intent
from agentcg.trace.format import LINE_MAX, Recorder, read, write
from agentcg.trace.model import RecordedCall, Recording, Sample

HEADER = '{"type":"agentcg.recording","version":1,"name":"one","started":1.5}'
V2 = '{"type":"agentcg.recording","version":2,"name":"one"}'
CALL = '{"type":"call","id":"a","tool":"Bash","command":"true","start_sec":1,"end_sec":2}'
SAMPLE = '{"type":"sample","t_sec":1,"memory_bytes":10,"cpu_sec":0.5}'
END = '{"type":"end","calls":1,"samples":1}'
VALID = (HEADER, CALL, SAMPLE, END)

WHOLE = Recording(
    name="whole",
    started=1_770_428_831.5,
    calls=(
        RecordedCall("a", "Bash", "printf '\0\n\x1b'", 1.0, 4.0, call_class="test", exit_code=1),
        RecordedCall("b", "Task", "", 1.5, 1.5, kind="subagent", end_estimated=True, intent=Intent(memory_max=5)),
    ),
    samples=(Sample(0.0, 5, 0.0), Sample(1.25, 3, 0.125, call="a"), Sample(2.0, 10, 0.25)),
    source="by hand",
    model="some-model",
    base_memory=4,
)


def _file(tmp_path, *lines):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_recording_comes_back_as_it_was(tmp_path):
    write(WHOLE, tmp_path / "w.jsonl")
    assert read(tmp_path / "w.jsonl") == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["w.jsonl"]


@pytest.mark.parametrize(
    ("changes", "version"), [({}, 1), ({"started": None}, 2), ({"samples": (), "timing": "durations"}, 2)]
)
def test_the_version_is_the_first_that_can_say_it(tmp_path, changes, version):
    recording = dataclasses.replace(WHOLE, **changes)
    write(recording, tmp_path / "w.jsonl")
    assert read(tmp_path / "w.jsonl") == recording
    assert json.loads((tmp_path / "w.jsonl").read_text().splitlines()[0])["version"] == version


seconds = st.integers(0, 10**9).map(lambda number: number / 1000)


@st.composite
def recordings(draw):
    ids = draw(st.lists(st.text(string.ascii_letters, min_size=1, max_size=5), min_size=1, max_size=4, unique=True))
    calls = []
    for name in ids:
        start, end = sorted((draw(seconds), draw(seconds)))
        calls.append(RecordedCall(name, draw(st.text(max_size=5)), draw(st.text(max_size=20)), start, end))
    samples = []
    for subject in [None, *ids]:
        times = sorted(draw(st.sets(seconds, max_size=4)))
        used = sorted(draw(st.lists(st.floats(0, 1e6), min_size=len(times), max_size=len(times))))
        samples += [
            Sample(t, draw(st.integers(0, 2**63 - 1)), cpu, subject) for t, cpu in zip(times, used, strict=True)
        ]
    return Recording(
        "n",
        draw(st.floats(0, 1e10)),
        tuple(sorted(calls, key=lambda call: (call.start_sec, call.end_sec, call.id))),
        tuple(sorted(samples, key=lambda sample: (sample.t_sec, sample.call or ""))),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(recordings())
def test_any_recording_comes_back_as_it_was(tmp_path, recording):
    write(recording, tmp_path / "any.jsonl")
    assert read(tmp_path / "any.jsonl") == recording


@pytest.mark.parametrize(
    ("lines", "place", "message"),
    [
        ((HEADER.replace(":1,", ":3,", 1), CALL, END), "1: version", "format version 3"),
        ((HEADER.replace(":1,", ":0,", 1), CALL, END), "1: version", "format version 0"),
        ((HEADER.replace(',"started":1.5', ""), CALL, END), "1: version", "version 1 has 'started'"),
        ((HEADER[:-1] + ',"timing":"durations"}', CALL, END), "1: version", "and no 'timing'"),
        ((V2[:-1] + ',"timing":"guess"}', CALL, END), "1: timing", "'guess'"),
        ((V2[:-1] + ',"timing":"durations"}', CALL, SAMPLE, END), "3", "whose timing is 'durations' has no samples"),
        ((HEADER[:-1] + ',"colour":1}', CALL, END), "1", "unknown field `colour`"),
        ((HEADER.replace('"one"', '"a\\u001bb"'), CALL, END), "1: name", "control characters"),
        ((CALL, HEADER, END), "1: type", "not the header"),
        ((HEADER, HEADER, CALL, END), "2: type", "second header"),
        ((HEADER, '{"type":"sampel"}', END), "2: type", "Invalid value 'sampel'"),
        ((HEADER, "[1]", END), "2", "Expected `object`"),
        ((HEADER, "", CALL, END), "2", "not JSON"),
        ((HEADER, CALL.replace('"a"', '"../x"'), END), "2: id", "is not a name"),
        ((HEADER, CALL, CALL, SAMPLE, END), "3: id", "id of an earlier call"),
        ((HEADER, CALL.replace('"end_sec":2', '"end_sec":0.5'), END), "2: end_sec", "before it starts"),
        ((HEADER, CALL.replace('"start_sec":1', '"start_sec":"x"'), END), "2: start_sec", "got `str`"),
        ((HEADER, CALL[:-1] + ',"intent":{"memory_maks":1}}', END), "2: intent.memory_maks", "no such field"),
        ((HEADER, CALL[:-1] + ',"intent":{"memory_max":-1}}', END), "2: intent.memoryMax", "not between"),
        ((HEADER, CALL[:-1] + ',"intent":{"cpu_class":"fast"}}', END), "2: intent", "Invalid enum value 'fast'"),
        ((HEADER, CALL, SAMPLE.replace(":10,", ":-10,"), END), "3: memory_bytes", "negative"),
        ((HEADER, CALL, SAMPLE.replace(":10,", ":18446744073709551616,"), END), "3: memory_bytes", ""),
        ((HEADER, CALL, SAMPLE, SAMPLE, END), "4: t_sec", "time runs backwards: 1.0 s comes after 1.0 s"),
        ((HEADER, CALL, SAMPLE, SAMPLE.replace('c":1', 'c":0.5'), END), "4: t_sec", "runs backwards: 0.5 s comes"),
        (
            (HEADER, CALL, SAMPLE, SAMPLE.replace('c":1', 'c":2').replace("0.5", "0.4"), END),
            "4: cpu_sec",
            "falls from 0.5",
        ),
        ((HEADER, CALL, SAMPLE[:-1] + ',"call":"zz"}', END), "3: call", "no call has the id 'zz'"),
        ((HEADER, SAMPLE, '{"type":"end","calls":0,"samples":1}'), None, "the recording has no calls"),
        ((HEADER, CALL, SAMPLE, SAMPLE.replace('c":1', 'c":2'), END), "5: samples", "counts 1 samples, there are 2"),
        ((HEADER, CALL, SAMPLE, END, END), "5", "after the end line"),
        ((HEADER, CALL, SAMPLE), "4", "the end line is missing"),
        ((), "1", "the file is empty"),
        (("[" * 100_000,), "1", ""),
        ((HEADER, "x" * (LINE_MAX + 1)), "2", "longer than"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, lines, place, message):
    path = _file(tmp_path, *lines)
    with pytest.raises(InvalidInput) as caught:
        read(path)
    assert caught.value.place == (f"{path}:{place}" if place else str(path))
    assert message in caught.value.detail


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.jsonl: cannot be read: No such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_every_cut_is_refused_and_can_be_salvaged(tmp_path):
    write(WHOLE, tmp_path / "w.jsonl")
    whole = (tmp_path / "w.jsonl").read_bytes()
    cut = tmp_path / "cut.jsonl"
    salvaged = set()
    for length in range(len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(InvalidInput, match=r"cut\.jsonl:\d+: .*(cut off|empty|not JSON)"):
            read(cut)
        if whole[:length].count(b"\n") >= 4:  # the header, two samples, and the first call
            found = read(cut, allow_cut=True)
            assert found.warnings
            assert set(found.calls) <= set(WHOLE.calls)
            assert set(found.samples) <= set(WHOLE.samples)
            salvaged.add((len(found.calls), len(found.samples)))
    assert max(salvaged) == (2, 3)


def test_salvage_leaves_out_samples_of_calls_that_never_ended(tmp_path):
    path = _file(tmp_path, HEADER, CALL, SAMPLE, SAMPLE[:-1] + ',"call":"running"}')
    found = read(path, allow_cut=True)
    assert [sample.call for sample in found.samples] == [None]
    assert "running" in found.warnings[1]


def test_a_broken_line_in_the_middle_is_not_taken_for_a_cut(tmp_path):
    path = _file(tmp_path, HEADER, CALL[:20], SAMPLE, END)
    with pytest.raises(InvalidInput, match=r"r\.jsonl:2: not JSON"):
        read(path, allow_cut=True)


def test_without_samples_it_is_read_but_not_replayed(tmp_path):
    recording = read(_file(tmp_path, HEADER, CALL, '{"type":"end","calls":1,"samples":0}'))
    assert recording.memory_peak is None
    with pytest.raises(InvalidInput, match="one: the recording has no samples of the session"):
        recording.require_samples()


def test_the_recorder_leaves_a_readable_prefix_at_any_moment(tmp_path):
    path = tmp_path / "live.jsonl"
    with Recorder(path, name="live", started=5.0) as recorder:
        recorder.sample(WHOLE.samples[0])
        recorder.call(WHOLE.calls[0])
        assert read(path, allow_cut=True).calls == WHOLE.calls[:1]
        recorder.sample(WHOLE.samples[2])
    assert read(path).samples == (WHOLE.samples[0], WHOLE.samples[2])


def test_the_recorder_refuses_what_the_reader_would_and_goes_on(tmp_path):
    path = tmp_path / "live.jsonl"
    with Recorder(path, name="live", started=5.0) as recorder:
        recorder.call(WHOLE.calls[0])
        recorder.sample(WHOLE.samples[2])
        with pytest.raises(InvalidInput, match="sample of session: t_sec: time runs backwards"):
            recorder.sample(WHOLE.samples[0])
        with pytest.raises(InvalidInput, match="call 'a': id: 'a' is the id of an earlier call"):
            recorder.call(WHOLE.calls[0])
    assert len(read(path).samples) == 1


def test_a_session_that_fails_leaves_no_end_line(tmp_path):
    path = tmp_path / "live.jsonl"
    recorder = Recorder(path, name="live", started=5.0)
    with pytest.raises(ZeroDivisionError), recorder:
        recorder.call(RecordedCall("a", "Bash", "", 0, 1 / 0))
    with pytest.raises(InvalidInput, match=r"live\.jsonl:2: .*the end line is missing"):
        read(path)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    twice = dataclasses.replace(WHOLE, calls=WHOLE.calls[:1] * 2)
    with pytest.raises(InvalidInput, match="earlier call"):
        write(twice, tmp_path / "w.jsonl")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AgentcgError, match="cannot be written: No such file"):
        write(WHOLE, tmp_path / "none" / "w.jsonl")
    with pytest.raises(AgentcgError, match="No space left on device"), Recorder("/dev/full", name="n", started=0.0):
        pass


def _read_or_refuse(path, text):
    path.write_bytes(text)
    for allow_cut in (False, True):
        try:
            read(path, allow_cut=allow_cut)
        except InvalidInput as error:
            assert str(error).startswith(str(path))  # noqa: PT017  most inputs raise, and all must name the file


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_clearly(tmp_path, text):
    _read_or_refuse(tmp_path / "fuzz.jsonl", text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
FIELDS = sorted(
    {key for line in VALID for key in json.loads(line)} | {"intent", "call", "kind", "base_memory", "model"}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=500)
@given(st.integers(0, 3), st.sampled_from(FIELDS), values)
def test_mutated_fields_are_refused_clearly(tmp_path, index, field, value):
    lines = list(VALID)
    lines[index] = json.dumps(json.loads(lines[index]) | {field: value})
    _read_or_refuse(tmp_path / "fuzz.jsonl", "\n".join(lines).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.data())
def test_mutated_bytes_are_refused_clearly(tmp_path, data):
    text = bytearray("\n".join(VALID).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    _read_or_refuse(tmp_path / "fuzz.jsonl", bytes(text))
