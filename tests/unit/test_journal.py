# SPDX-License-Identifier: Apache-2.0
"""The log to a journal that is a socket here: what it says, how it says it, and what becomes of it without one."""

import array
import io
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcg.control.bus import Bus
from agentcg.journal import JournalHandler, about, is_journal, log_handler
from agentcg.model import CallRef, Limits, SessionRef, Usage, Verdict

REF = CallRef(SessionRef("u0", "fix"), "c1")


def entry(data: bytes) -> dict[str, str]:
    """Read an entry as the protocol has it."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", data[:8])
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert end == b"\n"
        fields[name.decode()] = value.decode()
    return fields


class Journal:
    """A socket that takes entries."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(10)

    def read(self) -> dict[str, str]:
        data, ancillary, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if not ancillary:
            return entry(data)
        assert data == b""
        (fd,) = array.array("i", ancillary[0][2])
        with open(fd, "rb") as file:
            with pytest.raises(PermissionError):
                os.write(fd, b"x")
            file.seek(0)
            return entry(file.read())

    def close(self) -> None:
        self._socket.close()
        os.unlink(self.path)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "socket")
    yield made
    made.close()


@pytest.fixture
def log(journal: Journal) -> Iterator[logging.Logger]:
    """Return a logger to the journal, and to memory where that does not take it."""
    handler = JournalHandler(io.StringIO(), journal.path)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("test.journal")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    handler.close()


def test_a_record_has_its_fields(log, journal: Journal) -> None:  # type: ignore[no-untyped-def]
    log.warning("%s is slow", REF, extra=about(REF, outcome="ok"))
    found = journal.read()
    assert found.pop("CODE_LINE").isdigit()
    assert found == {
        "MESSAGE": "u0/fix/c1 is slow",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "agentcg",
        "LOGGER": "test.journal",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_a_record_has_its_fields",
        "AGENTCG_SESSION": "u0/fix",
        "AGENTCG_CALL": "u0/fix/c1",
        "AGENTCG_OUTCOME": "ok",
    }


@pytest.mark.parametrize(
    ("level", "priority"), [("critical", "2"), ("error", "3"), ("warning", "4"), ("info", "6"), ("debug", "7")]
)
def test_priorities_are_those_of_syslog(log, journal: Journal, level: str, priority: str) -> None:  # type: ignore[no-untyped-def]
    getattr(log, level)("x")
    assert journal.read()["PRIORITY"] == priority


def test_lines_stay_together_and_text_is_any(log, journal: Journal) -> None:  # type: ignore[no-untyped-def]
    # Not in the message: what runs tests on several processes cannot send a log that is no Unicode.
    log.info("one\nPRIORITY=0\n= ü", extra=about("u0/fix", why="a\n\ud800"))
    found = journal.read()
    assert found["MESSAGE"] == "one\nPRIORITY=0\n= ü"
    assert (found["PRIORITY"], found["AGENTCG_WHY"]) == ("6", "a\n?")


def test_an_error_has_its_traceback(log, journal: Journal) -> None:  # type: ignore[no-untyped-def]
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    message = journal.read()["MESSAGE"]
    assert message.startswith("failed\nTraceback")
    assert message.endswith("ValueError: no")


def test_what_is_too_large_for_a_datagram_is_passed_as_a_file(log, journal: Journal) -> None:  # type: ignore[no-untyped-def]
    log.info("x" * (1 << 20), extra=about(REF))
    found = journal.read()
    assert found["MESSAGE"] == "x" * (1 << 20)
    assert found["AGENTCG_CALL"] == "u0/fix/c1"


def test_what_the_journal_does_not_take_goes_to_the_stream(log, journal: Journal) -> None:  # type: ignore[no-untyped-def]
    stream = log.handlers[0].stream
    for number in range(2000):  # Nobody reads: it is full at some time, and is not waited for.
        log.info("%d", number)
    lines = stream.getvalue().splitlines()
    assert lines
    assert lines[-1] == "INFO 1999"
    first = int(lines[0].removeprefix("INFO "))
    assert [journal.read()["MESSAGE"] for _ in range(first)] == [str(number) for number in range(first)]
    os.rename(journal.path, f"{journal.path}.old")
    log.error("nobody there")
    assert stream.getvalue().endswith("ERROR nobody there\n")
    os.rename(f"{journal.path}.old", journal.path)
    log.error("there again")
    assert journal.read()["MESSAGE"] == "there again"


@pytest.mark.parametrize(
    ("subject", "fields"),
    [
        (REF, {"agentcg_session": "u0/fix", "agentcg_call": "u0/fix/c1"}),
        (REF.session, {"agentcg_session": "u0/fix"}),
        (None, {}),
        ("", {}),
    ],
)
def test_what_a_record_is_about(subject: object, fields: dict[str, str]) -> None:
    assert about(subject) == fields


def test_what_is_told_on_the_bus_has_its_event_and_outcome(journal: Journal) -> None:
    handler, logger = JournalHandler(io.StringIO(), journal.path), logging.getLogger("agentcg.events")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        bus = Bus()
        bus.publish("call_frozen", REF, "no room")
        bus.publish("call_ended", REF, "fine", Verdict(REF, "ok", Usage(1.0), Limits(), 0.0, 1.0))
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
    first, second = journal.read(), journal.read()
    assert (first["AGENTCG_EVENT"], first["AGENTCG_CALL"]) == ("call_frozen", "u0/fix/c1")
    assert "AGENTCG_OUTCOME" not in first
    assert (second["AGENTCG_EVENT"], second["AGENTCG_OUTCOME"]) == ("call_ended", "ok")
    assert second["MESSAGE"] == "call_ended u0/fix/c1: fine"


def test_only_the_stream_that_is_named_is_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    status = os.fstat(write)
    for value, expected in (
        (f"{status.st_dev}:{status.st_ino}", True),
        (f"{status.st_dev}:{status.st_ino + 1}", False),
        ("", False),
    ):
        monkeypatch.setenv("JOURNAL_STREAM", value)
        with open(os.dup(write), "w") as stream:
            assert is_journal(write) is expected
            assert isinstance(log_handler(stream), JournalHandler) is expected
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not is_journal(write)
    assert not isinstance(log_handler(io.StringIO()), JournalHandler)
    os.close(read)
    os.close(write)
