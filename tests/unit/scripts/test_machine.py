# SPDX-License-Identifier: Apache-2.0
"""The pure parts of scripts/machine: what needs neither root, nor the network, nor a virtual machine."""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

from machine import apt, boot, frames, main, python, stamp
from machine.errors import MachineError

SHOWN = """\
Package: linux-image-cloud-amd64
Version: 6.12.107-1
Depends: linux-image-6.12.107+deb13-cloud-amd64 (= 6.12.107-1)

Package: linux-image-cloud-amd64
Version: 7.3.4-1~bpo13+1
Depends: linux-base-cloud-amd64 (= 7.3.4-1~bpo13+1), linux-image-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)
Description: Linux for x86-64 cloud (meta-package)
 A line that looks like
 Version: 9

Package: linux-image-cloud-amd64
Version: 6.12.90-1
"""


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.12.90-1", "6.12.107-1"),
        ("7.3.4-1~bpo13+1", "7.3.4-1"),
        ("7.3.4~rc2-1", "7.3.4-1"),
        ("1.0-1", "1:0.1-1"),
        ("6.12.9+deb13-1", "6.12.9+deb13.1-1"),
        ("1.0", "1.0-1"),
        ("1.0a", "1.0+b"),
    ],
)
def test_versions_are_ordered_as_dpkg_orders_them(older: str, newer: str) -> None:
    assert apt.compare(older, newer) < 0 < apt.compare(newer, older)
    assert apt.compare(newer, newer) == 0


def test_the_newest_version_is_chosen_with_its_dependencies() -> None:
    package = apt.newest(apt.parse_packages(SHOWN), "linux-image-cloud-amd64")
    assert package.version == "7.3.4-1~bpo13+1"
    assert package.depends == ("linux-base-cloud-amd64", "linux-image-7.3.4+deb13-cloud-amd64")


def test_an_unknown_package_is_an_error_with_a_fix() -> None:
    with pytest.raises(MachineError, match="apt knows no nothing"):
        apt.newest([], "nothing")


def test_a_kernel_is_followed_to_its_own_packages_only() -> None:
    known = {
        "linux-image-cloud-amd64": ("1", "linux-base-cloud-amd64, linux-image-1-cloud-amd64 (= 1)"),
        "linux-headers-cloud-amd64": ("1", "linux-headers-1-cloud-amd64"),
        "linux-image-1-cloud-amd64": ("1", "linux-binary-1-cloud-amd64 | other, kmod"),
        "linux-binary-1-cloud-amd64": ("1", "linux-image-1-cloud-amd64"),
        "linux-headers-1-cloud-amd64": ("1", "linux-headers-1-common, linux-kbuild-1, gcc-14"),
        "linux-headers-1-common": ("1", ""),
    }

    class Fake(apt.Index):
        def __init__(self) -> None:
            pass

        def show(self, *names: str) -> list[apt.Package]:
            texts = (f"Package: {name}\nVersion: {known[name][0]}\nDepends: {known[name][1]}\n" for name in names)
            return apt.parse_packages("\n".join(texts))

    names = sorted(package.name for package in apt.kernel_packages(Fake()))
    assert names == [
        "linux-binary-1-cloud-amd64",
        "linux-headers-1-cloud-amd64",
        "linux-headers-1-common",
        "linux-image-1-cloud-amd64",
    ]


TARGETS = """\
http://mirror.example/debian/ bookworm main
http://mirror.example/debian/ bookworm contrib
http://mirror.example/debian-security bookworm-security main
https://packages.example/tool stable main
"""


def test_a_debian_host_lends_its_mirrors() -> None:
    mirrors = apt.choose_mirrors(TARGETS, "debian")
    assert mirrors == apt.Mirrors("http://mirror.example/debian", "http://mirror.example/debian-security")


@pytest.mark.parametrize(("targets", "distribution"), [(TARGETS, "ubuntu"), ("", "debian"), ("\nx\n", "debian")])
def test_any_other_host_gets_debians_own(targets: str, distribution: str) -> None:
    assert apt.choose_mirrors(targets, distribution) == apt.Mirrors()


def test_sources_name_the_security_mirror_for_its_suite() -> None:
    lines = apt.sources(apt.Mirrors("http://a/debian", "http://s/security"), ("trixie", "trixie-security")).splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "http://a/debian trixie main",
        "http://s/security trixie-security main",
    ]


def test_only_what_reaches_the_mirror_is_taken_from_the_hosts_apt() -> None:
    dump = 'APT::Architecture "amd64";\nAcquire::http::Proxy "http://p:1";\nAcquire::https "";\n'
    dump += 'DPkg::Post-Invoke:: "rm";\n'
    assert apt.host_options(dump) == ['Acquire::http::Proxy "http://p:1"']


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("E: Failed to fetch http://x/y.deb", "download failed"),
        ("dpkg: error: No space left on device", "disk is full"),
        ("something else", "see the lines above"),
    ],
)
def test_a_failure_is_explained(line: str, advice: str) -> None:
    assert advice in apt.explain([line])


def test_a_tree_is_fresh_only_with_a_whole_matching_stamp(tmp_path: Path) -> None:
    tree, inputs = tmp_path / "tree", stamp.digest("root", 1, ("a", "b"))
    half = stamp.temporary(tree)
    assert not stamp.is_fresh(tree, inputs)
    stamp.write(half, inputs, version="6.12")
    stamp.replace(tree, half)
    assert stamp.is_fresh(tree, inputs)
    assert stamp.read(tree)["version"] == "6.12"
    assert not stamp.is_fresh(tree, stamp.digest("root", 1, ("a", "c")))
    (tree / stamp.STAMP).write_text('{"inputs": "cut o')
    assert not stamp.is_fresh(tree, inputs)


def test_a_half_built_tree_is_removed_and_the_whole_one_stays(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for text in ("first", "second"):
        half = stamp.temporary(tree)
        (half / "file").write_text(text)
        stamp.write(half, text)
        stamp.replace(tree, half)
    (stamp.temporary(tree) / "rest").write_text("")
    stamp.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert (tree / "file").read_text() == "second"


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_frames_survive_any_cut(step: int) -> None:
    sent = [(frames.UP, b""), (frames.OUTPUT, b"a\x00b" * 50), (frames.OUTPUT, b""), (frames.EXIT, b"7")]
    wire = b"".join(frames.encode(kind, payload) for kind, payload in sent)
    decoder = frames.Decoder()
    got = [frame for start in range(0, len(wire), step) for frame in decoder.feed(wire[start : start + step])]
    assert got == sent


@pytest.mark.parametrize(("text", "size"), [("512M", 512 << 20), ("4G", 4 << 30), ("1k", 1024), ("77", 77)])
def test_sizes(text: str, size: int) -> None:
    assert boot.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "1.5G", "-1", "0", "0M", "1T", "x[$(id)]", "²M", "1 G"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        boot.parse_size(text)


def test_a_job_is_read_from_the_command_line() -> None:
    words = [
        "run",
        "--kernel",
        "stable",
        "--memory",
        "1G",
        "--timeout",
        "2.5",
        "--env",
        "A=b=c",
        "--",
        "x",
        "--",
        "--help",
    ]
    _, job = main.parse(words)
    assert job is not None
    assert (job.kernel, job.memory, job.timeout) == ("stable", 1 << 30, 2.5)
    assert list(job.command) == ["x", "--", "--help"]
    assert json.loads(job.message()) == {"command": ["x", "--", "--help"], "env": {"A": "b=c", "AGENTCG_VM": "stable"}}


def test_test_runs_pytest() -> None:
    _, job = main.parse(["test", "--", "-x", "tests/kernel"])
    assert job is not None
    assert list(job.command) == ["python", "-m", "pytest", "-x", "tests/kernel"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run"],
        ["run", "true"],
        ["build", "--", "true"],
        ["run", "--kernel", "7", "--", "true"],
        ["run", "--memory", "1M", "--", "true"],
        ["run", "--timeout", "nan", "--", "true"],
        ["run", "--cpus", "0", "--", "true"],
        ["run", "--env", "=x", "--", "true"],
    ],
)
def test_a_bad_command_line_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.parse(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_the_project_says_what_the_environment_holds(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    assert python.project(path) == (sorted(python.DEFAULT_REQUIREMENTS), {})
    path.write_text("""
[project]
name = "agentcg"
dependencies = ["click>=8"]
scripts = { agentcg = "agentcg.cli:main" }
[project.optional-dependencies]
dev = ["pytest", "agentcg[report]"]
report = ["jinja2"]
""")
    assert python.project(path) == (["click>=8", "jinja2", "pytest"], {"agentcg": "agentcg.cli:main"})
    path.write_text("[project")
    with pytest.raises(MachineError, match=r"pyproject\.toml"):
        python.project(path)


def test_pip_settings_are_merged_and_reduced(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("[global]\nindex-url = http://first/\nuser = true\n")
    two.write_text("[install]\nindex_url = http://second/\n")
    env = {"PIP_TIMEOUT": "9", "PIP_TARGET": "/x", "SSL_CERT_FILE": "/bundle", "HOME": "/root"}
    settings = python.pip_settings([one, two, tmp_path / "missing"], env)
    assert settings == {"index-url": "http://second/", "timeout": "9", "cert": "/bundle"}


def test_host_paths_are_bound_into_the_guest(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    settings = {"find-links": f"{wheels} http://w/", "extra-index-url": f"file://{wheels}/simple", "timeout": "9"}
    placed, binds = python.handed_in(settings, "/tmp/host")
    assert placed["find-links"].split() == [f"/tmp/host{wheels}", "http://w/"]
    assert placed["extra-index-url"] == f"file:///tmp/host{wheels}/simple"
    assert placed["timeout"] == "9"
    assert all(target == f"/tmp/host{source}" for source, target in binds.items())


def test_the_last_consoles_are_kept_though_another_machine_prunes_them_at_the_same_time(tmp_path):
    for number in range(boot.LOGS_KEPT + 3):
        log = tmp_path / f"console-{number}.log"
        log.touch()
        os.utime(log, (number, number))
    # One that is gone between the look at the folder and the look at it.
    (tmp_path / "console-gone.log").symlink_to(tmp_path / "nothing")
    boot.prune(tmp_path)
    kept = {path.name for path in tmp_path.glob("console-*.log")}
    assert kept == {f"console-{number}.log" for number in range(3, boot.LOGS_KEPT + 3)}
