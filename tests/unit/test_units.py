# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentcg.errors import InvalidInput
from agentcg.model import MAX_BYTES
from agentcg.units import format_duration, format_rate, format_size, parse_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("4096B", 4096), ("512M", 512 << 20), ("512mib", 512 << 20), ("2g", 2 << 30), ("1T", 1 << 40)],
)
def test_sizes_are_powers_of_1024(text, size):
    assert parse_size("here", text) == size


@pytest.mark.parametrize(
    "text",
    [
        "", "0", "0M", "-1", "1.5g", "1e3", " 1", "1 M", "1M\n", "M", "0x10", "٣M", "18446744073709551616", "8388608T",
        "x[$(id)]", "1P", "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_not_a_size_is_refused_with_its_place(text):
    with pytest.raises(InvalidInput) as caught:
        parse_size("intent.memoryMax", text)
    assert caught.value.place == "intent.memoryMax"
    assert caught.value.hint
    assert len(str(caught.value)) < 300


@given(st.text())
@example("9223372036854775807")
def test_any_text_is_a_size_in_range_or_invalid(text):
    try:
        size = parse_size("here", text)
    except InvalidInput:
        return
    assert 0 < size <= MAX_BYTES


@given(st.integers(1, 2**40), st.sampled_from(["", "K", "M"]))
def test_a_size_is_read_exactly(number, unit):
    assert parse_size("here", f"{number}{unit}") == number * {"": 1, "K": 1024, "M": 1024**2}[unit]


def test_a_rate_is_none_or_a_size_each_second():
    assert [parse_rate("here", text) for text in ("none", "10M", "512k")] == [0, 10 << 20, 512 << 10]
    for text in ("", "0", "None", "10M/s", "unlimited", "-1"):
        with pytest.raises(InvalidInput, match=r"^here: .* is not a rate \(write none, or bytes per second") as caught:
            parse_rate("here", text)
        assert caught.value.place == "here"


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("500ms", 0.5), ("90s", 90), ("5m", 300), ("2h", 7200)])
def test_durations(text, seconds):
    assert parse_duration("here", text) == seconds


@given(st.text())
@example("0s")
@example("1.5h")
@example("-1s")
@example("1h30m")
def test_any_text_is_a_positive_duration_or_invalid(text):
    try:
        seconds = parse_duration("here", text)
    except InvalidInput:
        return
    assert seconds > 0


def test_sizes_and_durations_for_people():
    assert [format_size(size) for size in (None, 0, 512 << 20, 1717986918)] == [
        "unlimited", "0 B", "512 MiB", "1.6 GiB"
    ]  # fmt: skip
    assert [format_rate(rate) for rate in (None, 0, 10 << 20)] == ["unlimited", "none", "10.0 MiB/s"]
    assert [format_duration(seconds) for seconds in (None, 0.012, 3.2, 250, 7200)] == [
        "unlimited", "12 ms", "3.2 s", "4 min 10 s", "2 h"
    ]  # fmt: skip
