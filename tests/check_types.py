"""Run mypy --strict on a copy of the package that stands under its import name, which mypy cannot map in place."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("agent", "config", "drivers", "hl7", "simulators", "tests", "benchmarks")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / "chartbound"
        stage.mkdir()
        for path in ROOT.glob("*.py"):
            shutil.copy(path, stage)
        shutil.copy(ROOT / "py.typed", stage)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, stage / name, ignore=shutil.ignore_patterns("__pycache__", "transcripts"))
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(ROOT / ".mypy_cache"),
            "--namespace-packages",
            "--explicit-package-bases",
            *sys.argv[1:],
            "chartbound",
        ]
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
