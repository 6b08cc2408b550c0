# SPDX-License-Identifier: Apache-2.0
"""The daemon: builds everything, runs one loop, and leaves every call as it is when it goes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import logging
import math
import os
import resource
import signal
import socket
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from agentcg.api import prekill
from agentcg.api.peer import Places
from agentcg.api.server import Server
from agentcg.api.service import Service
from agentcg.cgroup import files
from agentcg.cgroup.delegate import SUPERVISOR_MEMORY_MIN, Root, open_root
from agentcg.cgroup.events import EventPoll
from agentcg.cgroup.tree import Tree
from agentcg.control import confine, kernel_events
from agentcg.control import scheduling as scheduling_rung
from agentcg.control.adopt import adopt
from agentcg.control.bus import Bus
from agentcg.control.containers import Containers, places_of
from agentcg.control.controller import Controller
from agentcg.control.kv import Coordinator
from agentcg.control.registry import Registry
from agentcg.control.stops import Stops
from agentcg.control.transparent import Transparent
from agentcg.control.view import MECHANISMS, Mechanism, Settings
from agentcg.errors import AgentcgError
from agentcg.kernel import systemd
from agentcg.kernel.mem import Kind
from agentcg.metrics.serve import Address, Scrapes, bind_address, load_metrics, parse_address
from agentcg.policy.load import load
from agentcg.predict.history import Store
from agentcg.sandbox.docker import Engine, Pattern
from agentcg.spans.load import load_spans

__all__ = ["DEFAULT_HISTORY", "DEFAULT_SOCKET", "Options", "serve"]

log = logging.getLogger(__name__)

DEFAULT_SOCKET = "/run/agentcg/agentcg.sock"
DEFAULT_HISTORY = "/var/lib/agentcg/history.sqlite"


@dataclass(frozen=True, slots=True)
class Options:
    """How a daemon runs."""

    socket: str = DEFAULT_SOCKET
    policy: str = "default"
    """A preset's name or a file."""
    history: str = DEFAULT_HISTORY
    root: str | None = None
    """The cgroup of everything; None lets the host decide."""
    memory_max: int | None = None
    """What all sessions may use together, in bytes; None is all that the host has."""
    operators: str = "agentcg"
    """The group whose members are operators."""
    metrics: str | None = None
    """Where Prometheus may scrape: ``127.0.0.1:PORT`` or ``unix:PATH``."""
    otlp: str | None = None
    """The OpenTelemetry collector that spans are sent to: ``http://HOST:4318``. None: as the environment says."""
    observe: bool = False
    confine: bool = False
    """Have BPF programs keep calls in their cgroups, and count what they try, where there is BPF LSM."""
    events: bool = False
    """Hook BPF programs to the kernel's memory paths; without them control files tell the same, a little later."""
    scheduler: bool = False
    """Have agentcg's own scheduler run the calls of sessions that are not protected, where there is sched_ext."""
    containers: tuple[Pattern, ...] = ()
    """Docker containers that are attached when they start."""
    without: frozenset[Mechanism] = frozenset()
    """What the controller does not do."""
    dry_run: bool = False
    """The controller says what it would do, and does nothing."""


async def serve(options: Options) -> None:
    """Run until SIGTERM or SIGINT.

    :raises AgentcgError: if it cannot start; nothing was changed then but the daemon's own cgroup
    """
    scraped = None if options.metrics is None else (load_metrics(), parse_address("--metrics", options.metrics))
    start_spans = load_spans(options.otlp)
    policy = load(options.policy)
    store = Store(options.history)
    _raise_nofile()
    root = open_root(options.root, observe=options.observe)
    _lock(root)
    for name in root.missing:
        log.warning("the %s controller is missing: calls are not limited by it", name)
    _limit(root, options.memory_max, swap=bool(policy.tenant.swap))
    loop = asyncio.get_running_loop()
    poll, bus = EventPoll(loop), Bus()
    limited = files.read_int(root.node.fd, "memory.max") not in (None, math.inf)
    capacity = _capacity(root, options.memory_max)
    registry = Registry(Tree(root), policy, store, poll, bus, capacity=capacity, limited=limited)
    settings = Settings(mechanisms=frozenset(MECHANISMS) - options.without)
    acts = not (options.observe or options.dry_run)
    yields = settings if settings.has("yield") and acts else None
    holds = options.scheduler and acts
    events = kernel_events.start(registry, root, hold=holds, yields=yields) if options.events else None
    confining = confine.start(registry, root) if options.confine else None
    controller, stops = None, Stops(registry, dry_run=options.dry_run)
    if options.observe:
        registry.observers.append(stops)
    else:
        told = events is not None and Kind.GROWING in events.kinds
        controller = Controller(registry, settings, stops, told=told)
        if events is not None:
            events.on_growth = controller.grew
        registry.reserves.active = settings.has("reserve")
        registry.reserves.dry_run = options.dry_run
        registry.observers.append(controller)
    spans = None if start_spans is None else start_spans(registry)
    delivery = None if spans is None else spans.delivery
    metrics = None if scraped is None else scraped[0](registry, controller, events, delivery)
    transparent = Transparent(registry)
    await adopt(registry, places_of(root.node.read_record()))
    containers = Containers(registry, Engine(), options.containers)
    held = events.holds if events is not None and holds else None
    scheduling = scheduling_rung.start(registry, root, held) if options.scheduler else None
    hook = prekill.start(root, registry.doom)
    rules = policy.kv
    if not acts:
        rules = replace(rules, weights=False, order=False)
    coordinator = Coordinator(registry, rules, scheduling.weigh if scheduling is not None else lambda live: None)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    scrapes = None
    if scraped is not None and metrics is not None:
        scrapes = Scrapes(_bind_metrics(scraped[1]), metrics.text)
        await scrapes.start()
    passed = systemd.listen_socket()
    listening = passed or _bind(options.socket)
    service = Service(registry, containers, coordinator, stops)
    server = Server(
        listening,
        service.interfaces,
        service.lost,
        places=Places(root.path, containers.places),
        operators=options.operators,
    )
    log.info("listening on %s, policy %s, root %s", options.socket, policy.name, root.path)
    gc.freeze()  # What is loaded by now stays: the collector need not look at it during a call.
    systemd.notify("READY=1")
    watchdog = asyncio.create_task(_watchdog())
    try:
        await stop.wait()
    finally:
        systemd.notify("STOPPING=1")
        watchdog.cancel()
        server.close()
        if scrapes is not None:
            scrapes.close()
        if hook is not None:
            hook.close()
        if passed is None:
            os.unlink(options.socket)
        containers.close()
        transparent.close()
        await registry.settle()
        if spans is not None:
            await spans.close()
        coordinator.close()
        if controller is not None:
            controller.close()
        stops.close()
        if scheduling is not None:
            scheduling.close()
        if confining is not None:
            confining.close()
        log.info("leaving %d calls running: the next start adopts them", len(registry.calls))
        if events is not None:
            events.close()
        registry.network.close()
        poll.close()
        store.close()


async def _watchdog() -> None:
    every = systemd.watchdog_sec()
    while every is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(every)


def _limit(root: Root, memory_max: int | None, *, swap: bool = False) -> None:
    """Limit all sessions together, and let the daemon have its own beside them.

    :param swap: the policy gives tenants some, and limits it
    """
    record = root.node.read_record() or {}
    if memory_max is None and record.get("memory_max") is None:
        return  # What limit there may be is somebody else's.
    files.write_limit(root.node.fd, "memory.max", None if memory_max is None else memory_max + SUPERVISOR_MEMORY_MIN)
    files.write_limit(root.node.fd, "memory.swap.max", None if memory_max is None or swap else 0)
    root.node.write_record(record | {"memory_max": memory_max})


def _capacity(root: Root, memory_max: int | None) -> int:
    """Return what all sessions may use together, in bytes."""
    total = psutil.virtual_memory().total
    if memory_max is not None:
        return min(memory_max, total)
    limit = files.read_int(root.node.fd, "memory.max")
    if limit is None or limit >= total:
        return total
    return int(max(limit - SUPERVISOR_MEMORY_MIN, limit // 2))


def _raise_nofile() -> None:
    # A few descriptors for each call and connection.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _lock(root: Root) -> None:
    """Make sure that nobody else manages this tree. The lock ends with the process, however it ends."""
    try:
        fcntl.flock(root.node.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise AgentcgError(
            f"another daemon manages {root.directory}", hint="stop it first, or give this one a --root of its own"
        ) from error


def _bind_metrics(address: Address) -> socket.socket:
    return _bind(address, "--metrics") if isinstance(address, str) else bind_address(address)


def _bind(path: str, option: str = "--socket") -> socket.socket:
    """Return a socket bound to ``path``, in the place of one that nobody listens on any more."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _is_socket(path):
            if sock.connect_ex(path) == 0:
                raise AgentcgError(f"another daemon listens on {path}", hint=f"stop it first, or name another {option}")
            os.unlink(path)
            sock.close()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.bind(path)
        # Anybody may ask; who may do what is decided by the kernel's word on who asks.
        os.chmod(path, 0o666)  # noqa: S103
    except OSError as error:
        sock.close()
        hint = f"{'' if error.errno == errno.EADDRINUSE else 'run as root, or '}name another {option}"
        raise AgentcgError(f"cannot listen on {path}: {error.strerror or error}", hint=hint) from error
    return sock


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
