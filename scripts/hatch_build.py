# SPDX-License-Identifier: Apache-2.0
"""The wheel's build step: compiles the C and the BPF programs into the package, where there are compilers."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["NativeBuildHook"]


class NativeBuildHook(BuildHookInterface[BuilderConfig]):
    """Adds the C and BPF programs to a wheel, also to an editable one, for which they stay in the source tree."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this machine. Without a compiler: a warning, and a wheel without."""
        if self.target_name != "wheel":
            return
        # The package's own code; nothing that it depends on is installed while it is built.
        sys.path.insert(0, self.root)
        try:
            from agentcg import launcher
            from agentcg.control import guard
            from agentcg.errors import Unsupported
            from agentcg.kernel import build_bpf
            from agentcg.replay import load
            from agentcg.runtimes import bash_builtin
        finally:
            sys.path.remove(self.root)
        package = Path(self.root) / "agentcg"
        try:
            self._add(build_data, build_bpf.build(Path(self.root) / "bpf", package / "bpf"))
        except Unsupported as error:
            self.app.display_warning(f"the BPF programs are left out: {error}")
        try:
            programs = [program.build(package / "bin") for program in (launcher, load, guard, bash_builtin)]
        except Unsupported as error:
            self.app.display_warning(f"the C programs are left out: {error}")
            return
        self._add(build_data, programs)
        # On PATH as well, for shims and runtimes that call it by name.
        build_data["shared_scripts"][str(programs[0])] = programs[0].name
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def _add(self, build_data: dict[str, Any], built: list[Path]) -> None:
        # Their folders are git-ignored, so that hatchling would pass them by.
        build_data["artifacts"] += ["/" + path.relative_to(self.root).as_posix() for path in built]
