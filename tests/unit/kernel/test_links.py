# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from agentcg.errors import Unsupported
from agentcg.kernel import links


def rows(path):
    return [line.split() for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


def test_the_ways_out_of_this_host_are_those_of_its_default_routes():
    ipv4 = rows("/proc/net/route")  # Its columns: net/ipv4/fib_trie.c, those of the other: net/ipv6/route.c.
    expected = {row[0] for row in ipv4 if row[1] == row[7] == "00000000"}
    expected |= {row[9] for row in rows("/proc/net/ipv6_route") if row[:2] == ["0" * 32, "00"] and row[9] != "lo"}
    found = links.ways_out()
    assert set(found) == expected
    assert all(kinds and "mq" not in kinds for kinds in found.values())


def test_a_host_without_rtnetlink_says_so(monkeypatch):
    def refuse():
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(links, "IPRoute", refuse)
    with pytest.raises(Unsupported, match=r"rtnetlink does not tell of links: .*not supported"):
        links.ways_out()
