# SPDX-License-Identifier: Apache-2.0
"""What a call in a container may use of the network, at the end of a veth that is the container's only way out."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pyroute2 import IPRoute, NetNS

MIB = 1 << 20
HOST, INSIDE = "10.98.0.1", "10.98.0.2"
SIZE = 4 * MIB

pytestmark = pytest.mark.timeout(300)


@contextmanager
def linked(pid: int) -> Iterator[None]:
    """Give the network namespace of a process a way to this machine."""
    subprocess.run(["modprobe", "veth"], check=True)
    with IPRoute() as here:
        here.link("add", ifname="near1", kind="veth", peer={"ifname": "in0", "net_ns_pid": pid})
        try:
            with NetNS(f"/proc/{pid}/ns/net", flags=0) as there:
                for netlink, name, address in ((here, "near1", HOST), (there, "in0", INSIDE)):
                    (link,) = netlink.link_lookup(ifname=name)
                    netlink.addr("add", index=link, address=address, prefixlen=24)
                    netlink.link("set", index=link, state="up")
            yield
        finally:
            for link in here.link_lookup(ifname="near1"):
                here.link("del", index=link)


@contextmanager
def server() -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """Serve on this machine: the port, and for each connection, when it has ended, bytes and seconds."""
    found: list[tuple[int, float]] = []

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                began, size = time.monotonic(), 0
                while data := connection.recv(MIB):
                    size += len(data)
                found.append((size, time.monotonic() - began))

    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield listening.getsockname()[1], found
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(60)


def test_what_a_call_may_use_of_the_network_holds_in_a_container(own_containers: Any, tools: Any) -> None:
    containers = own_containers
    containers.start("one")
    containers.attach("one")
    with linked(containers.state("one")["Pid"]), server() as (port, found):
        send = f"exec 3>/dev/tcp/{HOST}/{port} && dd if=/dev/zero bs=64K count={SIZE >> 16} >&3"

        free = containers.run("one", "bash", "-c", send)
        assert (free.status, free.verdict.usage.networkSentBytes) == (0, None), free
        tools.wait_for(lambda: found, 60)
        assert found.pop()[0] == SIZE

        none = containers.run("one", "bash", "-c", send, hint="net:none")
        assert none.status != 0
        assert "not permitted" in none.output
        assert (none.verdict.usage.networkSentBytes, none.verdict.usage.networkRefused) == (0, 1)
        assert "tried to use the network and was refused once" in none.verdict.advice
        assert found == []

        slow = containers.run("one", "bash", "-c", send, hint=f"net:{MIB}")
        assert slow.status == 0, slow
        assert slow.verdict.usage.networkSentBytes > SIZE / 2  # The rest is on its way when the call ends.
        tools.wait_for(lambda: found, 60)
        size, seconds = found.pop()
        print(f"{size} bytes in {seconds:.2f} s at {MIB} bytes/s")
        assert size == SIZE
        assert size / seconds < 1.3 * MIB

        # And of the container itself nothing was limited.
        assert containers.get("one").exec_run(["bash", "-c", send]).exit_code == 0
        tools.wait_for(lambda: found, 60)
        assert found.pop()[0] == SIZE
