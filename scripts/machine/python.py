# SPDX-License-Identifier: Apache-2.0
"""The guest's virtual environment: which packages, and how pip reaches an index from inside the root file system."""

import configparser
import os
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from machine.errors import MachineError

__all__ = [
    "ALONE",
    "APART",
    "APART_ALONE",
    "DEFAULT_REQUIREMENTS",
    "RUNTIMES",
    "handed_in",
    "pip_settings",
    "project",
    "venv_script",
]

DEFAULT_REQUIREMENTS = (
    "click", "rich", "psutil", "pyroute2", "docker", "asyncvarlink", "msgspec", "pytest", "hypothesis",
    "pytest-timeout",
)  # fmt: skip

RUNTIMES = ("inspect_ai==0.3.285", "mcp==2.3.0", "swe-rex==1.4.0", "aiohttp")
"""Runtimes that tests run for real, with all that they need."""

ALONE = ("mini-swe-agent==2.4.6",)
"""Others, without what they bring for models and data sets: that would be a gigabyte."""

APART = ("openhands-sdk==1.58.0", "binaryornot", "cachetools", "libtmux")
APART_ALONE = ("openhands-tools==1.58.0",)
"""OpenHands, which needs another `mcp`, in an environment of its own inside the other, without what is for browsers."""

_KEYS = ("index-url", "extra-index-url", "find-links", "no-index", "cert", "client-cert", "trusted-host", "proxy",
         "timeout", "default-timeout", "retries")  # fmt: skip
_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def project(pyproject: Path) -> tuple[list[str], dict[str, str]]:
    """Return what pyproject.toml asks for (with its `dev` extra) and its console scripts."""
    if not pyproject.exists():
        return sorted(DEFAULT_REQUIREMENTS), {}
    try:
        table = tomllib.loads(pyproject.read_text())["project"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise MachineError(f"{pyproject}: {error}", "mend pyproject.toml") from error
    extras = table.get("optional-dependencies", {})
    own = re.compile(re.escape(table.get("name", "agentcg")) + r"\s*\[([^]]*)\]")
    found: set[str] = set()
    waiting = [*table.get("dependencies", []), *extras.get("dev", [])]
    while waiting:
        line = waiting.pop()
        match = own.match(line)
        if match:
            waiting += [other for name in match[1].split(",") for other in extras.get(name.strip(), [])]
        else:
            found.add(line)
    return sorted(found), dict(table.get("scripts", {}))


def pip_settings(files: Sequence[Path], env: Mapping[str, str]) -> dict[str, str]:
    """Merge pip's configuration as pip does: later files over earlier ones, the environment over all."""
    settings: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except configparser.Error as error:
            raise MachineError(f"{path}: {error}", "mend pip's configuration") from error
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    settings |= {key[4:].lower().replace("_", "-"): value for key, value in env.items() if key.startswith("PIP_")}
    chosen = {key: value for key, value in settings.items() if key in _KEYS and value}
    if "cert" not in chosen:
        bundle = next((env[name] for name in _CERTIFICATES if env.get(name)), _BUNDLE)
        chosen["cert"] = bundle
    return chosen


def host_pip_files() -> list[Path]:
    """Return the places where pip looks for its configuration, least important first."""
    home, env = Path.home(), os.environ
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip/pip.conf"]
    files.append(Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf")
    return [*files, Path(env["PIP_CONFIG_FILE"])] if "PIP_CONFIG_FILE" in env else files


def handed_in(settings: Mapping[str, str], folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the settings as the guest's pip sees them, and which host path is bound to which place under `folder`."""
    binds: dict[str, str] = {}

    def place(word: str) -> str:
        parts = urlsplit(word)
        path = parts.path if parts.scheme == "file" else word
        if not path.startswith("/"):
            return word
        # A link may leave the bound folder, and an index has relative links: resolved and kept whole.
        path = os.path.realpath(path)
        top = "/" + path.strip("/").split("/")[0]
        if top in ("/opt", "/srv", "/home", "/root", "/usr", "/var", "/mnt", "/etc", "/tmp"):
            top = "/".join(path.split("/")[:3])
        if not Path(top).exists():
            return word
        binds[top] = f"{folder}{top}"
        return ("file://" if parts.scheme == "file" else "") + folder + path

    placed = {key: "\n".join(place(word) for word in value.split()) for key, value in settings.items()}
    return placed, binds


def venv_script(root: Path, half_built: Path, requirements: Sequence[str], settings: Mapping[str, str]) -> str:
    """Return the shell script that fills a virtual environment; it runs in a mount namespace of its own.

    The half-built environment is bound to the place where it will be used, because its scripts name that place.
    """
    placed, binds = handed_in(settings, "/tmp/host")
    q = shlex.quote
    lines = [
        "set -e",
        f"mkdir -p {q(str(root))}/opt/agentcg/venv",
        f"mount --bind {q(str(half_built))} {q(str(root))}/opt/agentcg/venv",
        f"mount -t tmpfs tmpfs {q(str(root))}/tmp",
        f"mount -t proc proc {q(str(root))}/proc",
        f"mount --rbind /dev {q(str(root))}/dev",
    ]
    for source, target in binds.items():
        make = "mkdir -p" if Path(source).is_dir() else "install -D /dev/null"
        lines += [f"{make} {q(str(root) + target)}", f"mount --bind {q(source)} {q(str(root) + target)}"]
    for name in ("/etc/resolv.conf", "/etc/hosts"):
        lines += [
            f"touch {q(str(root) + name)}",
            f"if [ -e {name} ]; then mount --bind {name} {q(str(root) + name)}; fi",
        ]
    config = "[global]\n" + "".join(
        f"{key} = {value}\n".replace("\n", "\n  ").rstrip() + "\n" for key, value in placed.items()
    )
    passed = " ".join(
        q(f"{name}={os.environ[name]}") for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ
    )
    venv = "/opt/agentcg/venv"
    pip = f"{venv}/bin/python -m pip"
    apart = f"{venv}/openhands"
    lines += [
        f"printf %s {q(config)} > {q(str(root))}/tmp/pip.conf",
        f"inside() {{ chroot {q(str(root))} env -i PATH=/usr/sbin:/usr/bin HOME=/tmp LANG=C.UTF-8"
        f' PIP_CONFIG_FILE=/tmp/pip.conf PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 {passed} "$@"; }}',
        # The distribution's own bcc must be importable.
        f"inside python3 -m venv --system-site-packages {venv}",
        f"inside {pip} install -q {' '.join(q(one) for one in (*requirements, *RUNTIMES))}",
        f"inside {pip} install -q --no-deps {' '.join(q(one) for one in ALONE)}",
        f"inside python3 -m venv --without-pip {apart}",
        f"inside {pip} --python {apart} install -q {' '.join(q(one) for one in APART)}",
        f"inside {pip} --python {apart} install -q --no-deps {' '.join(q(one) for one in APART_ALONE)}",
    ]
    return "\n".join(lines) + "\n"
