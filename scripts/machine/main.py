# SPDX-License-Identifier: Apache-2.0
"""The command line of scripts/vm."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from machine import accelerator, host
from machine.boot import MACHINE_TROUBLE, TIMED_OUT, Job, Machine, MachineTimeout, parse_size
from machine.build import build, is_built
from machine.errors import MachineError, say
from machine.layout import KERNELS, Cache
from machine.process import locked

__all__ = ["main", "parse", "split_command"]


class Interrupted(BaseException):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # the clean-up is short and must not be cut
    raise Interrupted(number)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _memory(text: str) -> int:
    size = _size(text)
    if size < 256 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is too little: the guest needs 256M")
    return size


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals) or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def split_command(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split at the first `--`."""
    words = list(arguments)
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def parser() -> argparse.ArgumentParser:
    """Return the parser for what stands before `--`."""
    top = argparse.ArgumentParser(prog="scripts/vm", description=__doc__ and "Runs commands on a stock kernel in a VM.")
    commands = top.add_subparsers(dest="action", required=True, metavar="build|run|test|requirements")
    built = commands.add_parser("build", help="make the guest once, in $XDG_CACHE_HOME/agentcg/vm")
    built.add_argument("--force", action="store_true", help="make everything anew, with today's newest kernels")
    commands.add_parser("requirements", help="print the names of the host's packages that this needs")
    for name, text in (
        ("run", "run a command: run [OPTIONS] -- COMMAND..."),
        ("test", "run pytest: test [OPTIONS] -- ARGS..."),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("--kernel", choices=sorted(KERNELS), default="backports")
        one.add_argument("--memory", type=_memory, default=4 << 30, metavar="SIZE", help="4G")
        one.add_argument("--cpus", type=_count, default=2, metavar="N", help="2")
        one.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="for the command, after the boot")
        one.add_argument("--systemd", action="store_true", help="systemd is PID 1")
        one.add_argument("--swap", type=_size, default=0, metavar="SIZE", help="add a swap disk")
        one.add_argument("--one-thread", action="store_true", help="emulate all CPUs in one thread of the host")
        one.add_argument("--env", type=_setting, action="append", default=[], metavar="NAME=VALUE")
    return top


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Job | None]:
    """Return the options and, for `run` and `test`, the job."""
    before, command = split_command(arguments)
    top = parser()
    options = top.parse_args(before)
    if options.action not in ("run", "test"):
        if command:
            top.error(f"{options.action} takes no command")
        return options, None
    if options.action == "test":
        command = ["python", "-m", "pytest", *command]
    if not command:
        top.error("nothing to run: scripts/vm run [OPTIONS] -- COMMAND...")
    return options, Job(
        command,
        options.kernel,
        options.memory,
        options.cpus,
        options.timeout,
        options.systemd,
        options.swap,
        dict(options.env),
        one_thread=options.one_thread,
    )


def write_out(data: bytes) -> None:
    """Pass the guest's output on at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


def run(cache: Cache, job: Job) -> int:
    """Boot a machine, run the job, and return its exit status."""
    host.check(building=False)
    if not is_built(cache):
        host.check(building=True)
        with locked(cache.lock, exclusive=True):
            build(cache)
    with locked(cache.lock, exclusive=False):
        options = accelerator.choose(cache, one_thread=job.one_thread)
        with Machine(cache, job, options) as machine:
            try:
                for item in machine.run():
                    if isinstance(item, int):
                        return item
                    write_out(item)
            except MachineTimeout:
                print("\n".join(machine.console_tail()), file=sys.stderr)
                say(f"timed out: the command ran longer than {job.timeout:g} s; the console is in {machine.console}")
                return TIMED_OUT
    return MACHINE_TROUBLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options, job = parse(sys.argv[1:] if arguments is None else arguments)
    if options.action == "requirements":
        print(" ".join(host.needed_packages()))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    cache = Cache.default()
    try:
        if job is not None:
            return run(cache, job)
        host.check(building=True)
        with locked(cache.lock, exclusive=True):
            if options.force or not is_built(cache):
                build(cache, options.force)
        say(f"ready in {cache.top}")
        return 0
    except MachineError as error:
        print(error, file=sys.stderr)
        return MACHINE_TROUBLE
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(MachineError(str(error), f"see that {cache.top} can be written and has space"), file=sys.stderr)
        return MACHINE_TROUBLE
    except Interrupted as interrupted:
        say(f"interrupted by {signal.Signals(interrupted.number).name}")
        return 128 + interrupted.number
