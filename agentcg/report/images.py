# SPDX-License-Identifier: Apache-2.0
"""Figures as files, for papers: SVG and PNG, drawn by Chromium through Kaleido."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agentcg.errors import AgentcgError, Unsupported, missing_extra
from agentcg.report.marks import LIGHT, Figure

__all__ = ["load_library", "write_images"]

WIDTH = 960
TIMEOUT_SEC = 120


def load_library() -> str:
    """Return the text of plotly.js. :raises Unsupported: where the package that has it is not installed"""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise missing_extra("a report", error, "report") from error
    text: str = get_plotlyjs()
    return text


def write_images(folder: Path, figures: Iterable[Figure]) -> list[Path]:
    """Write NAME.svg and NAME.png of each figure, and return their paths.

    :raises Unsupported: where Kaleido or Chromium is not installed
    :raises AgentcgError: if a file cannot be written
    """
    try:
        import kaleido
        from choreographer.errors import ChromeNotFoundError
    except ModuleNotFoundError as error:
        raise missing_extra("--figures", error, "report") from error
    files = [(figure, folder / f"{figure.name}.{kind}") for figure in figures for kind in ("svg", "png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without MathJax, which it would load from the network.
        options = {"mathjax": False, "timeout": TIMEOUT_SEC}
        kaleido.write_fig_from_object_sync([_job(figure, path) for figure, path in files], kopts=options)
    except ChromeNotFoundError:
        hint = "apt install chromium, or set BROWSER_PATH; or leave --figures out: the page saves each figure itself"
        raise Unsupported("--figures needs Chromium", hint=hint) from None
    except OSError as error:
        message = f"{error.filename or folder}: cannot be written: {error.strerror}"
        raise AgentcgError(message, hint="choose another --figures") from None
    return [path for _, path in files]


def _job(figure: Figure, path: Path) -> dict[str, Any]:
    layout = figure.plot["layout"]
    plot = {"data": figure.plot["data"], "layout": layout | {"template": LIGHT}}
    kind = path.suffix.removeprefix(".")
    options = {"format": kind, "width": WIDTH, "height": layout["height"], "scale": 2 if kind == "png" else 1}
    return {"fig": plot, "path": os.fspath(path), "opts": options}
