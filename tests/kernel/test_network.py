# SPDX-License-Identifier: Apache-2.0
"""What calls may use of the network, tried against a server in a network namespace of its own, at the end of a veth."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pyroute2 import IPRoute, NetNS
from pyroute2 import netns as namespaces

from agentcg.cli.doctor import doctor

MIB = 1 << 20
NEAR, FAR, FAR6, PORT = "10.99.0.1", "10.99.0.2", "fd99::2", 5000
ECHO_REQUEST = b"\x08\x00\xf7\xfd\x00\x01\x00\x01"

# Takes one connection after the other, and says of each how much came in which time.
SERVER = f"""
import socket, time
server = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.settimeout(5)
    began = ended = time.monotonic()
    size = 0
    try:
        while data := connection.recv(1 << 20):
            size, ended = size + len(data), time.monotonic()
    except OSError:
        pass
    print(size, ended - began, flush=True)
"""

# Sends for some seconds, and stops there: what has not gone by then is thrown away.
SENDER = f"""
import socket, struct, sys, time
end = time.monotonic() + float(sys.argv[1])
with socket.create_connection(({FAR!r}, {PORT}), timeout=1) as connection:
    while time.monotonic() < end:
        try:
            connection.send(bytes(65536))
        except TimeoutError:
            pass
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""


class Far:
    """The other end: a namespace with a server."""

    def __init__(self, netlink: IPRoute, server: "subprocess.Popen[str]", link: int) -> None:
        self.netlink, self.server, self.link = netlink, server, link

    def received(self) -> tuple[int, float]:
        """Wait for the end of the next connection: bytes and seconds."""
        assert self.server.stdout is not None
        size, seconds = self.server.stdout.readline().split()
        return int(size), float(seconds)


def address(netlink: Any, link: int, ipv4: str, ipv6: str) -> None:
    netlink.addr("add", index=link, address=ipv4, prefixlen=24)
    netlink.addr("add", index=link, address=ipv6, prefixlen=64, flags=0x02)  # IFA_F_NODAD: usable at once.
    netlink.link("set", index=link, state="up")


@pytest.fixture
def far() -> Iterator[Far]:
    """Return the other end of a veth, which is this machine's only way out."""
    subprocess.run(["modprobe", "-a", "veth", "sch_fq"], check=True)
    name = f"far-{os.getpid()}"
    with IPRoute() as netlink, NetNS(name) as there:
        server = None
        try:
            netlink.link("add", ifname="near0", kind="veth", peer={"ifname": "far0", "net_ns_fd": name})
            (link,) = netlink.link_lookup(ifname="near0")
            address(netlink, link, NEAR, "fd99::1")
            address(there, there.link_lookup(ifname="far0")[0], FAR, FAR6)
            netlink.route("add", dst="default", gateway=FAR)
            command = ["ip", "netns", "exec", name, sys.executable, "-c", SERVER]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield Far(netlink, server, link)
        finally:
            if server is not None:
                server.kill()
                server.communicate(timeout=30)
            for link in netlink.link_lookup(ifname="near0"):
                netlink.link("del", index=link)
            namespaces.remove(name)


def tcp(host: str, port: int = PORT) -> None:
    socket.create_connection((host, port), timeout=10).close()


def udp(host: str, port: int = PORT) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        end.sendto(b"x", (host, port))


def raw(host: str, protocol: int, data: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as end:
        end.sendto(data, (host, 0))


def outcome(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


OUTSIDE: dict[str, Callable[[], None]] = {
    "tcp": lambda: tcp(FAR),
    "tcp6": lambda: tcp(FAR6),
    "tcp to an IPv4 address in IPv6": lambda: tcp(f"::ffff:{FAR}"),
    "udp": lambda: udp(FAR),
    "udp6": lambda: udp(FAR6),
    "ping": lambda: raw(FAR, socket.IPPROTO_ICMP, ECHO_REQUEST),
    "raw udp": lambda: raw(FAR, socket.IPPROTO_UDP, b"\x13\x88\x13\x88\x00\x08\x00\x00"),
}


@pytest.fixture
def try_in(tools: Any, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that tries something in a cgroup, and returns how each went."""

    def run(cgroup: Path, attempts: dict[str, Callable[[], None]]) -> dict[str, str]:
        answers = tmp_path / "answers"

        def work() -> None:
            answers.write_text(json.dumps({name: outcome(attempt) for name, attempt in attempts.items()}))

        assert tools.in_cgroup(cgroup, work) == 0
        found: dict[str, str] = json.loads(answers.read_text())
        return found

    return run


def programs() -> set[str]:
    """Return the names of our programs and maps that the kernel has now."""
    kinds = [
        json.loads(subprocess.run(["bpftool", "-j", kind], capture_output=True).stdout) for kind in ("prog", "map")
    ]
    return {one["name"] for kind in kinds for one in kind if one.get("name", "").startswith("net_")}


def test_a_call_that_uses_none_of_the_network_cannot_leave_the_machine(own_daemon: Any, far: Far, try_in: Any) -> None:
    with own_daemon.client() as client, client.session("s1") as session:
        free = session.call(["x"], id="c1")
        assert try_in(own_daemon.top / "shared/u0/s1/calls/c1", OUTSIDE) == dict.fromkeys(OUTSIDE, "ok")
        assert free.end(exit_code=0).usage.networkSentBytes is None

        call = session.call(["x"], id="c2", network_rate=0)
        assert call.limits.networkRate == 0
        leaf = own_daemon.top / "shared/u0/s1/calls/c2"
        began = time.monotonic()
        assert try_in(leaf, OUTSIDE) == dict.fromkeys(OUTSIDE, "EPERM")
        assert time.monotonic() - began < 10  # At once, which is less than the first time-out.
        nested = leaf / "own/deeper"
        nested.mkdir(parents=True)
        assert try_in(nested, OUTSIDE) == dict.fromkeys(OUTSIDE, "EPERM")
        verdict = call.end(exit_code=1)
    usage = verdict.usage
    assert (usage.networkSentBytes, usage.networkRefused) == (0, 2 * len(OUTSIDE))
    assert f"was refused {2 * len(OUTSIDE)} times: it had declared that it would not." in verdict.advice


def test_loopback_and_the_daemons_own_socket_are_none_of_the_network(own_daemon: Any, try_in: Any) -> None:
    def ask() -> None:
        with own_daemon.client() as inside:
            assert inside.status().calls == 1

    def loopback(host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as server:
            tcp(host, server.getsockname()[1])
            server.accept()[0].close()
        udp(host)

    def unspecified() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            tcp("0.0.0.0", server.getsockname()[1])  # The kernel's word for loopback here.

    def mapped() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            tcp("::ffff:127.0.0.1", server.getsockname()[1])

    attempts = {
        "the daemon": ask,
        "a pair of sockets": lambda: [end.close() for end in socket.socketpair()] and None,
        "loopback": lambda: loopback("127.0.0.1"),
        "another of its addresses": lambda: loopback("127.8.9.10"),
        "IPv6": lambda: loopback("::1"),
        "unspecified": unspecified,
        "IPv4 in IPv6": mapped,
    }
    with own_daemon.client() as client, client.session("s1") as session:
        call = session.call(["x"], id="c1", network_rate=0)
        assert try_in(own_daemon.top / "shared/u0/s1/calls/c1", attempts) == dict.fromkeys(attempts, "ok")
        usage = call.end(exit_code=0).usage
    assert (usage.networkSentBytes, usage.networkReceivedBytes, usage.networkRefused) == (0, 0, 0)


def test_nobody_outside_reaches_a_call_that_uses_none_of_the_network(own_daemon: Any, far: Far, tools: Any) -> None:
    script = (
        "import socket; end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); end.bind(('', 5001));"
        "print('bound', flush=True); print(end.recv(9), flush=True)"
    )
    with own_daemon.client() as client, client.session("s1") as session:
        call = session.call([sys.executable, "-c", script], id="c1", network_rate=0)
        process = call.popen(stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "bound\n"
        send = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'far', ({NEAR!r}, 5001))"
        name = f"far-{os.getpid()}"
        subprocess.run(["ip", "netns", "exec", name, sys.executable, "-c", send], check=True, timeout=60)
        udp("127.0.0.1", 5001)
        assert process.stdout.readline() == "b'x'\n"
        assert process.wait(30) == 0
        usage = call.end(exit_code=0).usage
    assert (usage.networkDroppedPackets, usage.networkReceivedBytes, usage.networkRefused) == (1, 0, 0)


@pytest.mark.parametrize("paced", [False, True], ids=["dropped", "paced"])
def test_a_rate_is_held(own_daemon: Any, far: Far, paced: bool) -> None:
    """With fq on the way out, packets wait; without, some are dropped. The rate is the same."""
    rate, seconds = MIB, 6
    if paced:
        far.netlink.tc("replace", "fq", far.link, handle=0x10000)
    command = [sys.executable, "-c", SENDER, str(seconds)]
    with (
        own_daemon.client() as client,
        client.session("s1") as session,
        session.call(command, network_rate=rate) as call,
    ):
        assert call.run() == 0
    usage = call.verdict.usage
    size, duration = far.received()
    held = size / duration / rate
    print(f"{held:.3f} of {rate} bytes/s for {duration:.1f} s, {usage.networkDroppedPackets} packets dropped")
    assert 0.8 <= held <= 1.2
    assert size < usage.networkSentBytes < 1.2 * size + 3 * 65536
    assert usage.networkReceivedBytes > 0
    assert (usage.networkDroppedPackets == 0) is paced
    assert usage.networkRefused == 0


def test_what_paces_is_told_by_the_doctor(far: Far) -> None:
    def found() -> dict[str, Any]:
        rungs = json.loads(CliRunner().invoke(doctor, ["--json"]).stdout)
        (network,) = [rung for rung in rungs if rung["name"] == "network"]
        assert network["holds"]
        checks = {check["name"]: check for check in network["checks"]}
        assert checks["loading them"]["found"] == "works"
        pacing: dict[str, Any] = checks["pacing by fq"]
        return pacing

    assert (found()["holds"], found()["found"]) == (False, "near0: noqueue")
    assert found()["fix"].startswith("tc qdisc replace dev near0 root fq: ")
    subprocess.run(found()["fix"].partition(":")[0].split(), check=True)
    assert (found()["holds"], found()["found"]) == (True, "near0: fq")


def test_a_running_call_can_be_limited_and_limited_otherwise(own_daemon: Any, far: Far, try_in: Any) -> None:
    with own_daemon.client() as client, client.session("s1") as session:
        call = session.call(["x"], id="c1")
        leaf = own_daemon.top / "shared/u0/s1/calls/c1"
        assert set(try_in(leaf, OUTSIDE).values()) == {"ok"}
        assert call.amend(network_rate=0).networkRate == 0
        assert set(try_in(leaf, OUTSIDE).values()) == {"EPERM"}
        assert call.amend(network_rate=10 * MIB).networkRate == 10 * MIB
        assert set(try_in(leaf, OUTSIDE).values()) == {"ok"}
        usage = call.end(exit_code=0).usage
    assert usage.networkRefused == len(OUTSIDE)
    assert usage.networkSentBytes > 0
    assert usage.networkDroppedPackets == 0


@pytest.fixture
def offline(tmp_path: Path) -> str:
    """Return a policy under which the command `offline` uses none of the network."""
    path = tmp_path / "offline.toml"
    path.write_text(
        'version = 1\nextends = "default"\n[class.offline]\nnetwork = "none"\n'
        '[[rule]]\nclass = "offline"\ncommand = "offline"\n'
    )
    return str(path)


def test_a_policy_takes_the_network_away_from_who_asks_for_it(
    own_daemon: Any, far: Far, offline: str, try_in: Any
) -> None:
    own_daemon.signal(signal.SIGTERM)
    own_daemon.options += ["--policy", offline]
    own_daemon.start()
    with own_daemon.client() as client, client.session("s1") as session:
        call = session.call(["offline"], id="c1", network_rate=10 * MIB)
        assert call.notes == ["network: 10.0 MiB/s declared, none given: class 'offline' allows no more"]
        assert set(try_in(own_daemon.top / "shared/u0/s1/calls/c1", OUTSIDE).values()) == {"EPERM"}
        advice = call.end(exit_code=1).advice
    assert advice.endswith(f"refused {len(OUTSIDE)} times: the policy allows none to class 'offline'. Do without.")


def test_limits_and_counters_outlive_the_daemon_and_nothing_outlives_the_calls(
    own_daemon: Any, far: Far, try_in: Any, tools: Any
) -> None:
    assert programs() == set()
    client = own_daemon.client()
    client.session("kept", leased=False)
    call = client.call(["sleep", "1000"], session="kept", id="c1", leased=False, network_rate=0)
    process = call.popen()
    leaf = own_daemon.top / "shared/u0/kept/calls/c1"
    assert set(try_in(leaf, OUTSIDE).values()) == {"EPERM"}
    own_daemon.signal(signal.SIGKILL)
    assert set(try_in(leaf, OUTSIDE).values()) == {"EPERM"}
    own_daemon.start()
    assert set(try_in(leaf, OUTSIDE).values()) == {"EPERM"}
    with own_daemon.client() as client:
        # One begun by the second daemon, whose counters the third is to find as well.
        second = client.call(["sleep", "1000"], session="kept", id="c2", leased=False, network_rate=0)
        beside = second.popen()
        assert set(try_in(leaf.parent / "c2", OUTSIDE).values()) == {"EPERM"}
    own_daemon.signal(signal.SIGKILL)
    own_daemon.start()
    with own_daemon.client() as client:
        assert client.kill(second.name, "it is over").usage.networkRefused == len(OUTSIDE)
        assert client.kill(call.name, "it is over").usage.networkRefused == 3 * len(OUTSIDE)
        client.close_session("kept")
    for one in (process, beside):
        assert one.wait(30) == -9
    assert programs() != set()  # The daemon keeps them for the next call.
    own_daemon.signal(signal.SIGTERM)
    tools.wait_for(lambda: programs() == set(), 30)
    own_daemon.start()


def test_without_the_programs_a_note_says_that_nothing_is_enforced(
    own_daemon: Any, far: Far, try_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty library in libbpf's place, found first.
    subprocess.run(["gcc", "-shared", "-x", "c", "/dev/null", "-o", str(tmp_path / "libbpf.so.1")], check=True)
    own_daemon.signal(signal.SIGTERM)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    own_daemon.start()
    with own_daemon.client() as client, client.session("s1") as session:
        call = session.call(["x"], id="c1", network_rate=0)
        (note,) = call.notes
        assert note.startswith("network: none is not enforced: libbpf.so.1 cannot be used")
        assert call.limits.networkRate is None
        assert set(try_in(own_daemon.top / "shared/u0/s1/calls/c1", OUTSIDE).values()) == {"ok"}
        assert call.end(exit_code=0).usage.networkRefused is None
