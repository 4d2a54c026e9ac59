"""The house rules that can be read from the source: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "drivers": {"drivers", "hl7.er7", "hl7.mllp"},
    "hl7": {"hl7"},
    "config": {"config", "drivers", "hl7"},
    "agent": {"agent", "drivers", "hl7", "config"},
    "simulators": {"simulators", "drivers", "hl7", "config"},
}
DOES_IO = {"socket", "threading", "time", "logging", "structlog", "subprocess", "asyncio", "serial", "sqlite3", "os"}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders or ("agent", "drivers", "hl7", "config", "simulators", "tests", "benchmarks"):
        yield from sorted((ROOT / folder).rglob("*.py"))
    if not folders:
        yield from sorted(ROOT.glob("*.py"))


def imports_of_ours(path: Path) -> Iterator[tuple[int, str]]:
    """Each import of another part of chartbound, as `folder` or `folder.module`."""
    here = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            target = [*base, *(node.module.split(".") if node.module else [])]
            names = [alias.name for alias in node.names if alias.name != "__version__"] if len(target) < 2 else [""]
            for name in names:
                yield node.lineno, ".".join([*target, name] if name else target)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("chartbound"):
            yield node.lineno, node.module.removeprefix("chartbound").lstrip(".") or node.names[0].name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("chartbound."):
                    yield node.lineno, alias.name.removeprefix("chartbound.")


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_the_design_lets_it(folder: str) -> None:
    allowed = MAY_IMPORT[folder]
    broken = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(folder)
        for line, name in imports_of_ours(path)
        if name.split(".")[0] not in allowed and ".".join(name.split(".")[:2]) not in allowed
    ]
    assert not broken


@pytest.mark.parametrize("folder", ["drivers", "hl7"])
def test_what_an_instrument_says_and_what_the_chart_holds_need_no_clock_no_wire_and_no_thread(folder: str) -> None:
    broken = []
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            broken += [f"{path.name}:{node.lineno}: {name}" for name in names if name.split(".")[0] in DOES_IO]
    assert not broken


def test_no_module_is_over_500_lines() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert not {path: length for path, length in lengths.items() if length > 500}


def test_no_subfolder_is_a_regular_package() -> None:
    """With an `__init__.py` in it, our hl7/ would hide python-hl7 where the program is started from the root."""
    assert not [path for path in sources() if path.name == "__init__.py" and path.parent != ROOT]
