# SPDX-License-Identifier: Apache-2.0
"""vLLM's own tests of its scheduler and KV cache, with its scheduler and with ours::

    pip download --no-deps --no-binary vllm vllm==0.33.0
    python tests/engines/vllm_own_tests.py vllm-0.33.0.tar.gz

Whatever passes with vLLM's has to pass with ours: its status is 0 if nothing is lost. The sdist is to be that of the
vLLM that is installed. Many tests fail without a GPU or a model to download, with either.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

MODEL = "facebook/opt-125m"
CONFIG = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 768,
    "ffn_dim": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 768,
    "torch_dtype": "float16",
}
WITH_AN_ENGINE = (
    "prefix_cache/test_hybrid_prefix_cache_hit_rate.py",
    "test_reset_prefix_cache_e2e.py",
    "test_scheduler_e2e.py",
)
"""They need a model."""
TAKES_OURS = """
import os

if os.environ["AGENTCG_TESTED"] == "ours":
    from agentcg.kv.engines.vllm.scheduler import KeepingAsyncScheduler, KeepingScheduler
    from vllm.v1.core.sched import async_scheduler, scheduler

    scheduler.Scheduler, async_scheduler.AsyncScheduler = KeepingScheduler, KeepingAsyncScheduler
"""


def prepare(sdist: Path, folder: Path) -> None:
    """Unpack the tests, and have them use a model that is only a configuration."""
    with tarfile.open(sdist) as archive:
        members = [each for each in archive.getmembers() if each.name.split("/")[1:2] == ["tests"]]
        archive.extractall(folder, members=members, filter="data")
    (folder / sdist.name.removesuffix(".tar.gz") / "tests").rename(folder / "tests")
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text(json.dumps(CONFIG))
    for path in [*(folder / "tests/v1/core").rglob("*.py"), *(folder / "tests/v1/kv_connector/unit").glob("*.py")]:
        text = path.read_text()
        changed = text.replace(MODEL, str(folder / "model"))
        changed = changed.replace("skip_tokenizer_init: bool = False", "skip_tokenizer_init: bool = True")
        path.write_text(changed)
    (folder / "tests/conftest.py").write_text(TAKES_OURS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    cpu_test\n    slow_test\n    skip_global_cleanup\n")


def outcomes(folder: Path, tested: str) -> dict[str, bool]:
    """Run the tests; return which have passed."""
    report = folder / f"{tested}.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/v1/core",
        "-q",
        "--no-header",
        "--tb=no",
        "-p",
        "no:cacheprovider",
    ]
    command += [f"--junitxml={report}", "--continue-on-collection-errors"]
    command += [f"--ignore=tests/v1/core/{path}" for path in WITH_AN_ENGINE]
    environment = os.environ | {
        "AGENTCG_TESTED": tested,
        "AGENTCG_SOCKET": str(folder / "nobody"),
        "HF_HUB_OFFLINE": "1",
    }
    environment["PYTHONPATH"] = f"{folder}:{Path(__file__).resolve().parents[2]}"
    with (folder / f"{tested}.log").open("w") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=False, timeout=1500)
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}": case.find("*") is None for case in cases}


def main(sdist: str) -> int:
    """Run both; say what came of it."""
    with TemporaryDirectory() as made:
        folder = Path(made).resolve()
        prepare(Path(sdist), folder)
        stock, ours = (outcomes(folder, tested) for tested in ("stock", "ours"))
    for name, found in (("vLLM's scheduler", stock), ("ours", ours)):
        print(f"{name}: {sum(found.values())} passed of {len(found)}")
    lost = [test for test, passed in stock.items() if passed and not ours.get(test)]
    for test in lost:
        print(f"lost: {test}")
    return bool(lost) or not any(stock.values())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
