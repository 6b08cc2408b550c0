# SPDX-License-Identifier: Apache-2.0
import pytest

from agentcg.errors import Unsupported
from agentcg.kernel import build_bpf
from agentcg.kernel.libbpf import library


@pytest.fixture(scope="session")
def compiled_objects(tmp_path_factory):
    """The compiled BPF programs by name, made of the sources as they are now."""
    try:
        library()
        made = build_bpf.build(target=tmp_path_factory.mktemp("bpf"))
    except Unsupported as error:
        pytest.skip(str(error))
    return {path.name.removesuffix(".bpf.o"): path for path in made}
