# SPDX-License-Identifier: Apache-2.0
"""Control files: what is missing is a value, what is written exists already, and the formats of cgroup-v2.rst."""

import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcg.cgroup import files


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_missing_file_is_a_value(directory: int) -> None:
    assert files.read(directory, "memory.max") is None
    assert files.read_int(directory, "memory.max") is None
    assert files.read_words(directory, "cgroup.procs") is None
    assert files.read_flat_keyed(directory, "memory.events") == {}
    assert files.read_nested_keyed(directory, "io.stat") == {}
    assert files.read_pressure(directory, "memory.pressure") is None


def test_writing_a_missing_file_makes_none(directory: int, tmp_path: Path) -> None:
    assert files.write(directory, "memory.max", "1") is False
    assert files.write_limit(directory, "memory.max", None) is False
    assert list(tmp_path.iterdir()) == []


def test_a_cgroup_that_was_removed_meanwhile_is_a_value(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    fd = os.open(gone, os.O_RDONLY | os.O_DIRECTORY)
    gone.rmdir()
    assert files.read(fd, "cgroup.events") is None
    assert files.write(fd, "cgroup.kill", "1") is False
    os.close(fd)


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EOPNOTSUPP])
def test_a_file_of_a_dead_cgroup_reads_as_none(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def read(fd: int, size: int) -> bytes:
        raise OSError(number, os.strerror(number))

    (tmp_path / "memory.events").write_text("oom 0\n")
    monkeypatch.setattr("agentcg.cgroup.files.os.read", read)
    assert files.read(directory, "memory.events") is None


def test_another_error_of_reading_is_raised(directory: int, tmp_path: Path) -> None:
    (tmp_path / "memory.events").mkdir()
    with pytest.raises(IsADirectoryError):
        files.read(directory, "memory.events")


def test_a_link_is_not_followed(directory: int, tmp_path: Path) -> None:
    target = tmp_path / "passwd"
    target.write_text("root")
    (tmp_path / "memory.max").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        files.write(directory, "memory.max", "x")
    assert target.read_text() == "root"


def test_a_refused_write_names_the_file_and_the_text(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(fd: int, data: bytes) -> int:
        raise OSError(errno.ERANGE, "Numerical result out of range")

    (tmp_path / "cpu.weight").touch()
    monkeypatch.setattr("agentcg.cgroup.files.os.write", write)
    with pytest.raises(OSError, match=r"writing '20000' to cpu\.weight") as caught:
        files.write(directory, "cpu.weight", "20000")
    assert caught.value.errno == errno.ERANGE


@pytest.mark.parametrize(
    ("text", "value"), [("max\n", math.inf), ("0\n", 0), ("18446744073709551615\n", 18446744073709551615)]
)
def test_single_values(directory: int, tmp_path: Path, text: str, value: float) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert files.read_int(directory, "memory.max") == value


def test_limits(directory: int, tmp_path: Path) -> None:
    (tmp_path / "pids.max").touch()
    assert files.write_limit(directory, "pids.max", 0) is True
    assert (tmp_path / "pids.max").read_text() == "0"
    (tmp_path / "memory.max").touch()
    assert files.write_limit(directory, "memory.max", None) is True
    assert (tmp_path / "memory.max").read_text() == "max"


def test_a_large_file_is_read_whole(directory: int, tmp_path: Path) -> None:
    words = [str(number) for number in range(100_000)]
    (tmp_path / "cgroup.procs").write_text("\n".join(words))
    assert files.read_words(directory, "cgroup.procs") == words


def test_a_file_that_comes_in_pieces_is_read_whole(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # cgroup.procs comes a page at a time, however much is asked for (seq_file, one record a process).
    real = os.read
    monkeypatch.setattr("agentcg.cgroup.files.os.read", lambda fd, size: real(fd, min(size, 4096)))
    words = [str(number) for number in range(2000)]
    (tmp_path / "cgroup.procs").write_text("\n".join(words))
    assert files.read_words(directory, "cgroup.procs") == words


def test_flat_keyed_leaves_out_what_is_not_a_number() -> None:
    text = "low 0\noom_kill 3\n\nsome avg10=0.00\nneg -1\nalone\n"
    assert files.parse_flat_keyed(text) == {"low": 0, "oom_kill": 3}


def test_nested_keyed() -> None:
    text = "8:0 rbytes=4096 wbytes=0 cost.usage=x\n253:0\n"
    assert files.parse_nested_keyed(text) == {"8:0": {"rbytes": 4096, "wbytes": 0}, "253:0": {}}


def test_pressure_is_in_seconds() -> None:
    both = files.parse_pressure(
        "some avg10=1.50 avg60=0.30 avg300=0.10 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
    )
    assert both is not None
    assert both.some == (1.5, 0.3, 0.1, 2.5)
    assert both.full is not None
    assert both.full.total_sec == 1e-6


def test_pressure_without_full_and_without_anything() -> None:
    some = files.parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    assert some is not None
    assert some.full is None
    assert files.parse_pressure("") is None
