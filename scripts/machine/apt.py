# SPDX-License-Identifier: Apache-2.0
"""Asks apt: which mirror the host uses, which kernel is newest, and which packages belong to it."""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

from machine.errors import MachineError
from machine.host import KEYRING

__all__ = ["Index", "Mirrors", "Package", "choose_mirrors", "compare", "explain", "host_options", "kernel_packages",
           "newest", "parse_packages", "sources"]  # fmt: skip

_OWN_PARTS = re.compile(r"linux-(image|binary|modules|headers)-\d")
_FLAVOUR = "cloud-amd64"
_PASSED_ON = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
)


@dataclass(frozen=True)
class Mirrors:
    """Where Debian's archive and its security archive are."""

    archive: str = "http://deb.debian.org/debian"
    security: str = "http://deb.debian.org/debian-security"


@dataclass(frozen=True)
class Package:
    """One version of a package, as apt describes it."""

    name: str
    version: str
    depends: tuple[str, ...]


def choose_mirrors(targets: str, distribution: str) -> Mirrors:
    """Choose from `apt-get indextargets` (lines of URI, suite, component) the mirrors of a Debian host."""
    found: dict[str, str] = {}
    if distribution == "debian":
        for line in targets.splitlines():
            uri, suite, component = [*line.split(), "", "", ""][:3]
            if component != "main" or not uri:
                continue
            uri = uri.rstrip("/")
            if suite.endswith(("-security", "/updates")):
                found.setdefault("security", uri)
            elif uri.endswith("/debian") or re.search(r"/debian/\d{8}T\d{6}Z$", uri):
                found.setdefault("archive", uri)
    return Mirrors(**found)


def host_mirrors() -> Mirrors:
    """Return the mirrors that the host's apt uses."""
    release = dict(line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line)
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    result = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    return choose_mirrors(result.stdout, release.get("ID", "").strip('"'))


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def sources(mirrors: Mirrors, suites: Iterable[str]) -> str:
    """Return a sources.list for some suites."""
    lines = []
    for suite in suites:
        uri = mirrors.security if suite.endswith("-security") else mirrors.archive
        lines.append(f"deb [signed-by={KEYRING}] {uri} {suite} main\n")
    return "".join(lines)


def host_options(dump: str) -> list[str]:
    """Choose from `apt-config dump` what the host says about reaching its mirror: proxies, retries, dates."""
    return [line.rstrip(";") for line in dump.splitlines() if line.startswith(_PASSED_ON) and not line.endswith(' "";')]


def parse_packages(text: str) -> list[Package]:
    """Read the stanzas that `apt-cache show` prints."""
    packages = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(Package|Version|Depends): (.*)$", stanza, re.MULTILINE))
        if "Package" in fields and "Version" in fields:
            words = re.split(r"[,|]", fields.get("Depends", ""))
            depends = tuple(word.split()[0].split(":")[0] for word in words if word.split())
            packages.append(Package(fields["Package"], fields["Version"], depends))
    return packages


def _order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _compare_part(left: str, right: str) -> int:
    while left or right:
        words = [re.match(r"\D*", side) for side in (left, right)]
        one, two = (word.group() if word else "" for word in words)
        left, right = left[len(one) :], right[len(two) :]
        for index in range(max(len(one), len(two))):
            a = _order(one[index]) if index < len(one) else 0
            b = _order(two[index]) if index < len(two) else 0
            if a != b:
                return a - b
        numbers = [re.match(r"\d*", side) for side in (left, right)]
        one, two = (number.group() if number else "" for number in numbers)
        left, right = left[len(one) :], right[len(two) :]
        if int(one or 0) != int(two or 0):
            return int(one or 0) - int(two or 0)
    return 0


def compare(left: str, right: str) -> int:
    """Compare two Debian versions as dpkg does: negative when the left one is older."""
    sides = []
    for version in (left, right):
        epoch, _, rest = version.rpartition(":") if ":" in version else ("0", "", version)
        upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
        sides.append((int(epoch), upstream, revision))
    (epoch1, upstream1, revision1), (epoch2, upstream2, revision2) = sides
    return epoch1 - epoch2 or _compare_part(upstream1, upstream2) or _compare_part(revision1, revision2)


def _by_version(one: Package, two: Package) -> int:
    return compare(one.version, two.version)


def newest(packages: Sequence[Package], name: str) -> Package:
    """Return the newest version of a package."""
    candidates = [package for package in packages if package.name == name]
    if not candidates:
        raise MachineError(f"apt knows no {name}", "see whether the mirror carries Debian's suites, then build again")
    return max(candidates, key=cmp_to_key(_by_version))


class Index:
    """Package lists of our own, apart from the host's."""

    def __init__(self, folder: Path, suites: Iterable[str], mirrors: Mirrors, options: Sequence[str]) -> None:
        self._folder = folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "sources.list").write_text(sources(mirrors, suites))
        lines = [
            f'Dir::State "{folder}/state"', 'Dir::State::status "/dev/null"', f'Dir::Cache "{folder}/cache"',
            f'Dir::Etc::sourcelist "{folder}/sources.list"', 'Dir::Etc::sourceparts "/dev/null"',
            'Dir::Etc::preferencesparts "/dev/null"', 'Dir::Etc::preferences "/dev/null"', 'APT::Architecture "amd64"',
            'APT::Sandbox::User "root"', *options,
        ]  # fmt: skip
        (folder / "conf").write_text("".join(f"{line};\n" for line in lines))
        self.env: Mapping[str, str] = {**os.environ, "APT_CONFIG": str(folder / "conf"), "LC_ALL": "C"}

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        result = subprocess.run(command, env=self.env, cwd=cwd, capture_output=True, text=True, check=False)
        if result.returncode:
            log = (result.stdout + result.stderr).splitlines()[-20:]
            raise MachineError(f"{' '.join(command[:2])} failed", explain(log), log)
        return result.stdout

    def update(self) -> None:
        """Download the package lists."""
        self._run("apt-get", "-qq", "update", "--error-on=any")

    def show(self, *names: str) -> list[Package]:
        """Return every version of some packages."""
        return parse_packages(self._run("apt-cache", "show", *names))

    def download(self, packages: Iterable[Package], folder: Path) -> None:
        """Download packages, which apt checks against the signed lists."""
        self._run("apt-get", "-qq", "download", *(f"{one.name}={one.version}" for one in packages), cwd=folder)


def kernel_packages(index: Index) -> list[Package]:
    """Return the newest cloud kernel's own packages: image, modules and headers."""
    metas = [f"linux-image-{_FLAVOUR}", f"linux-headers-{_FLAVOUR}"]
    known = index.show(*metas)
    image = newest(known, metas[0])
    headers = [one for one in known if one.name == metas[1] and one.version == image.version]
    found: dict[str, Package] = {}
    waiting = [name for meta in (image, *headers) for name in meta.depends if _OWN_PARTS.match(name)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = newest(index.show(name), name)
            waiting += [other for other in found[name].depends if _OWN_PARTS.match(other)]
    return list(found.values())


def explain(log: Sequence[str]) -> str:
    """Return what to do about a failed build, from the last lines it printed."""
    text = "\n".join(log).lower()
    if "no space left" in text:
        return "the disk is full: free 4 GiB, or set XDG_CACHE_HOME to a folder on a larger disk, then run it again"
    unreachable = ("failed to fetch", "could not resolve", "temporary failure", "could not connect", "connection",
                   "timed out", "hash sum mismatch", "max retries", "no matching distribution", "404")  # fmt: skip
    if any(word in text for word in unreachable):
        return "a download failed: see that apt-get update and pip download work on this host, then run it again"
    return "see the lines above, then run it again; nothing half-built was kept"
