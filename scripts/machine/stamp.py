# SPDX-License-Identifier: Apache-2.0
"""Stamps: what a built tree was made from, kept inside it, so that only a whole tree carries one."""

import hashlib
import json
import os
import shutil
from pathlib import Path

__all__ = ["STAMP", "digest", "is_fresh", "read", "remove_leftovers", "replace", "temporary", "write"]

STAMP = ".agentcg-stamp"
_MARK = ".half-built-"


def digest(*inputs: object) -> str:
    """Return a hash of what a step depends on."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read(tree: Path) -> dict[str, str]:
    """Return a tree's stamp; empty where the tree is missing or was not finished."""
    try:
        value = json.loads((tree / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(one) for key, one in value.items()} if isinstance(value, dict) else {}


def is_fresh(tree: Path, inputs: str) -> bool:
    """Tell whether a tree is whole and made from these inputs."""
    return read(tree).get("inputs") == inputs


def write(tree: Path, inputs: str, **facts: str) -> None:
    """Stamp a tree that is complete."""
    (tree / STAMP).write_text(json.dumps({"inputs": inputs, **facts}) + "\n")


def temporary(tree: Path) -> Path:
    """Return the empty folder beside a tree in which its successor is made."""
    folder = tree.with_name(_MARK + tree.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def replace(tree: Path, successor: Path) -> None:
    """Put a finished tree in place of the old one."""
    os.sync()
    if tree.exists():
        old = tree.with_name(_MARK + tree.name + "-old")
        tree.rename(old)
        successor.rename(tree)
        shutil.rmtree(old, ignore_errors=True)
    else:
        successor.rename(tree)


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted build left; only the holder of the lock may do so."""
    for path in folder.glob(f"{_MARK}*"):
        shutil.rmtree(path, ignore_errors=True)
