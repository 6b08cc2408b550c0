# SPDX-License-Identifier: Apache-2.0
"""Makes wheels again of packages that are installed here: python wheels.py FOLDER PACKAGE..."""

import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path


def repack(name: str, folder: Path) -> None:
    """Put the files of an installed package into a wheel, as its record lists them."""
    installed = distribution(name)
    tags = [line.split(": ", 1)[1] for line in (installed.read_text("WHEEL") or "").splitlines() if "Tag: " in line]
    stem = f"{installed.name.replace('-', '_').replace('.', '_')}-{installed.version}"
    with zipfile.ZipFile(folder / f"{stem}-{tags[0]}.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in installed.files or []:
            # Not what the installer added: scripts outside the package, byte code, and its own notes.
            if file.parts[0] != ".." and file.suffix != ".pyc" and file.name not in ("INSTALLER", "REQUESTED"):
                wheel.write(file.locate(), str(file))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    for package in sys.argv[2:]:
        repack(package, target)
