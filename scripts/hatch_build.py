# SPDX-License-Identifier: Apache-2.0
"""The wheel's build step: compiles the launcher and the BPF programs into the package, where compilers are there."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["LauncherBuildHook"]


class LauncherBuildHook(BuildHookInterface[BuilderConfig]):
    """Adds ``agentcg-exec`` and the BPF objects to a wheel, also to an editable one: they stay in the source tree."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this machine. Without a compiler: a warning, and a pure wheel."""
        if self.target_name != "wheel":
            return
        # The package's own code; nothing that it depends on is installed while it is built.
        sys.path.insert(0, self.root)
        try:
            from agentcg.errors import Unsupported
            from agentcg.kernel import build_bpf
            from agentcg.launcher import build
        finally:
            sys.path.remove(self.root)
        # Both folders are git-ignored, so that hatchling would pass them by.
        package = Path(self.root) / "agentcg"
        try:
            objects = build_bpf.build(Path(self.root) / "bpf", package / "bpf")
            build_data["artifacts"] += ["/" + one.relative_to(self.root).as_posix() for one in objects]
        except Unsupported as error:
            self.app.display_warning(f"the BPF programs are left out: {error}")
        try:
            program = build(package / "bin")
        except Unsupported as error:
            self.app.display_warning(f"agentcg-exec is left out: {error}")
            return
        build_data["artifacts"].append("/" + program.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
