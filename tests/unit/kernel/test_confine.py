# SPDX-License-Identifier: Apache-2.0
"""Where calls cannot be confined, the reason and the way to get it are told, before anything is loaded."""

import errno

import pytest

from agentcg.errors import Unsupported
from agentcg.kernel import confine, sys
from agentcg.kernel.confine import Confinement, check_lsm

YAMA = 105


def modules(monkeypatch, *ids):
    monkeypatch.setattr(sys, "security_modules", lambda: list(ids))


def none_listed():
    raise OSError(errno.ENOSYS, "lsm_list_modules: Function not implemented")


def test_the_kernel_is_asked_whether_bpf_is_among_its_security_modules(monkeypatch):
    modules(monkeypatch, YAMA, sys.LSM_ID_BPF)
    assert check_lsm() == "active"
    modules(monkeypatch, YAMA)
    with pytest.raises(Unsupported, match="bpf is not among the active security modules") as caught:
        check_lsm()
    assert "lsm=" in caught.value.hint
    assert "CONFIG_BPF_LSM" in caught.value.hint


@pytest.mark.parametrize(("listed", "holds"), [("yama,bpf\n", True), ("yama,bpfx\n", False), ("", False)])
def test_a_kernel_before_the_system_call_has_a_file(monkeypatch, tmp_path, listed, holds):
    monkeypatch.setattr(sys, "security_modules", none_listed)
    (tmp_path / "lsm").write_text(listed)
    if holds:
        assert check_lsm(tmp_path / "lsm") == "active"
    else:
        with pytest.raises(Unsupported, match="not among"):
            check_lsm(tmp_path / "lsm")


def test_where_the_file_is_not_mounted_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "security_modules", none_listed)
    with pytest.raises(Unsupported, match="active security modules are not known") as caught:
        check_lsm(tmp_path / "lsm")
    assert caught.value.hint == "mount -t securityfs none /sys/kernel/security"


def test_this_kernels_modules_are_numbers_or_it_has_no_such_call():
    try:
        found = sys.security_modules()
    except OSError as error:
        found, number = None, error.errno
    if found is None:
        assert number == errno.ENOSYS
    else:
        assert found
        assert all(100 <= one < 1000 for one in found)


def test_nothing_is_loaded_where_programs_would_never_be_run(monkeypatch):
    modules(monkeypatch, YAMA)
    with pytest.raises(Unsupported, match="not among"):
        Confinement(1)


def test_without_the_compiled_programs_the_reason_says_how_to_build_them(monkeypatch, tmp_path):
    modules(monkeypatch, sys.LSM_ID_BPF)
    monkeypatch.setattr(confine, "require", lambda *_: "9.9")
    monkeypatch.setattr(confine, "object_path", lambda name: tmp_path / f"{name}.bpf.o")
    with pytest.raises(Unsupported, match=r"no agentcg_confine\.bpf\.o in .*build_bpf"):
        Confinement(1)
