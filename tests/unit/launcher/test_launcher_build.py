# SPDX-License-Identifier: Apache-2.0
"""Finding the launcher and compiling it."""

import os
import struct
from pathlib import Path

import pytest

from agentcg import launcher as module
from agentcg import native
from agentcg.errors import Unsupported
from agentcg.launcher import build, launcher_path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package as if it were installed in an empty folder, with nothing on PATH."""
    folder = tmp_path / "agentcg" / "launcher"
    folder.mkdir(parents=True)
    monkeypatch.setattr(module, "SOURCES", folder)
    monkeypatch.setattr(native, "BIN", folder.parent / "bin")
    monkeypatch.delenv("AGENTCG_EXEC", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return folder.parent


def _program(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_variable_wins_over_package_and_package_over_path(package, tmp_path, monkeypatch):
    on_path = _program(tmp_path / "path" / "agentcg-exec")
    assert launcher_path() == on_path
    own = _program(package / "bin" / "agentcg-exec")
    assert launcher_path() == own
    chosen = _program(tmp_path / "mine")
    monkeypatch.setenv("AGENTCG_EXEC", chosen)
    assert launcher_path() == chosen


def test_nothing_found_says_what_to_install(package):
    with pytest.raises(
        Unsupported, match=r"agentcg-exec is neither in .*/agentcg/bin nor on PATH \(install a C compiler"
    ):
        launcher_path()


def test_variable_that_names_no_program_is_not_passed_over(package, tmp_path, monkeypatch):
    _program(package / "bin" / "agentcg-exec")
    monkeypatch.setenv("AGENTCG_EXEC", str(tmp_path))
    with pytest.raises(Unsupported, match=r"AGENTCG_EXEC names '.*', which is not a program"):
        launcher_path()


def test_no_compiler(package, tmp_path):
    with pytest.raises(Unsupported, match=r"there is no C compiler .* \(install one"):
        build(tmp_path / "bin")


def test_compiler_that_fails_is_quoted_and_leaves_the_old_program(package, tmp_path, monkeypatch):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'cannot find -lc' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"{compiler} --flag")
    old = _program(tmp_path / "bin" / "agentcg-exec")
    with pytest.raises(Unsupported, match=r"cannot find -lc \(install the static C library"):
        build(tmp_path / "bin")
    assert os.listdir(tmp_path / "bin") == ["agentcg-exec"]
    assert Path(old).read_text() == "#!/bin/sh\n"


def test_program_is_static(launcher):
    image = Path(launcher).read_bytes()
    assert image.startswith(b"\x7fELF")
    # ELF of this machine's word size: where the program headers are, how long each is, how many there are.
    first, size, count = struct.unpack_from("@32xL14xHH" if struct.calcsize("P") == 8 else "@28xL10xHH", image)
    kinds = [struct.unpack_from("=I", image, first + index * size)[0] for index in range(count)]
    assert kinds
    assert 3 not in kinds, "it asks for a dynamic linker (PT_INTERP)"
