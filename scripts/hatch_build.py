# SPDX-License-Identifier: Apache-2.0
"""The wheel's build step: compiles the C programs into ``agentcg/bin/``, where a compiler is there."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["NativeBuildHook"]


class NativeBuildHook(BuildHookInterface[BuilderConfig]):
    """Adds the C programs to a wheel, also to an editable one, for which they stay in the source tree."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this machine. Without a compiler: a warning, and a pure wheel."""
        if self.target_name != "wheel":
            return
        # The package's own code; nothing that it depends on is installed while it is built.
        sys.path.insert(0, self.root)
        try:
            from agentcg import launcher
            from agentcg.errors import Unsupported
            from agentcg.replay import load
        finally:
            sys.path.remove(self.root)
        try:
            programs = [program.build(Path(self.root) / "agentcg" / "bin") for program in (launcher, load)]
        except Unsupported as error:
            self.app.display_warning(f"the C programs are left out: {error}")
            return
        # The folder is git-ignored, so that hatchling would pass it by.
        build_data["artifacts"] += ["/" + program.relative_to(self.root).as_posix() for program in programs]
        # On PATH as well, for shims and runtimes that call it by name.
        build_data["shared_scripts"][str(programs[0])] = programs[0].name
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
