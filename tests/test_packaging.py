"""What is installed: every file of the package and no test, from a wheel as well as from one zip file without folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("agent", "config", "drivers", "hl7", "simulators")


def packaged() -> set[str]:
    """The files of the package, as they must be in a wheel."""
    found = {f"chartbound/{path.name}" for path in ROOT.glob("*.py")} | {"chartbound/py.typed"}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add("chartbound/" + path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.timeout(180)
def test_the_wheel_holds_the_whole_package_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
        licences = {Path(name).name for name in archive.namelist() if ".dist-info/" in name}
    assert names == packaged()
    assert licences >= {"LICENSE", "NOTICE"}


def test_all_drivers_are_listed_where_there_are_no_folders_to_look_into(tmp_path: Path) -> None:
    """As in a frozen build: the modules come from one archive."""
    archive = tmp_path / "frozen.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for folder in sorted({str(Path(name).parent) for name in packaged()}):
            packed.mkdir(folder)
        for name in packaged():
            packed.write(ROOT / name.removeprefix("chartbound/"), name)
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "import chartbound; assert '.zip' in chartbound.__file__\n"
        "from chartbound.drivers.driver import find, shipped\n"
        "from chartbound.config import catalog\n"
        "print([one.name for one in shipped()], find('ekg').name, len(catalog.load().rows) > 40)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", _with_site_packages(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from chartbound.drivers.driver import shipped

    assert done.stdout.strip() == f"{[one.name for one in shipped()]} ekg True"


def _with_site_packages(code: str) -> str:
    """The libraries without the finders of an editable installation, which would go first."""
    return f"import sys; sys.path += {[path for path in sys.path if 'site-packages' in path]!r}\n{code}"
