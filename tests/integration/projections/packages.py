"""Packages of somebody else's: made here as wheels, and installed by pip into a folder of their own."""

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

GROUP = "daybook.projections"


def install(target: Path, name: str, module: str, entries: Mapping[str, str]) -> None:
    """The module is installed in the folder, with these entry points."""
    distribution = name.replace("-", "_")
    wheel = target.parent / f"{distribution}-1.0.0-py3-none-any.whl"
    lines = [f"[{GROUP}]", *(f"{entry} = {place}" for entry, place in entries.items())]
    files = {
        f"{distribution}.py": module,
        f"{distribution}-1.0.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n",
        f"{distribution}-1.0.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{distribution}-1.0.0.dist-info/entry_points.txt": "\n".join(lines) + "\n",
    }
    record = f"{distribution}-1.0.0.dist-info/RECORD"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(record, "".join(f"{path},,\n" for path in (*files, record)))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True, timeout=120)
