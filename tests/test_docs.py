"""The pages that people read say everything that there is: each command, key, reason and driver; and their examples load."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from chartbound import __version__
from chartbound.__main__ import command_line
from chartbound.agent.evidence import Reason
from chartbound.agent.orders import COLUMNS
from chartbound.agent.store.results import STATES
from chartbound.config import catalog, site
from chartbound.drivers import driver as drivers
from chartbound.hl7 import profile
from chartbound.simulators import cli as simulators
from chartbound.simulators import ehr
from chartbound.simulators.faults import Fault

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))
LONGEST_SUMMARY = 60  # characters that `--help` shows of a command's first sentence in 80 columns, whatever the command


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def sections(text: str) -> dict[str, str]:
    """The text under each heading that names something in backticks, by that name."""
    parts = re.split(r"^#{2,3} `(.+?)`.*$", text, flags=re.MULTILINE)
    return {name: re.split(r"^## ", body, flags=re.MULTILINE)[0] for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that can be run, by its words."""

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield words, command
            return
        for name, one in inner.items():
            yield from below(f"{words} {name}", one)

    return below("chartbound", typer.main.get_command(command_line()))


COMMANDS = dict(commands())


@pytest.mark.parametrize("words", COMMANDS)
def test_each_command_is_described_with_all_its_options(words: str) -> None:
    text = sections(page("commands.md")).get(words)
    assert text is not None, f"docs/commands.md has no heading for `{words}`"
    stated = [name for one in COMMANDS[words].params for name in (*one.opts, *one.secondary_opts) if name.startswith("--")]
    missing = [name for name in stated if name != "--help" and not re.search(rf"`{name}\b", text)]
    assert not missing, f"docs/commands.md does not say what these options of `{words}` do: {missing}"


def test_no_command_is_described_that_there_is_not() -> None:
    described = {name for name in sections(page("commands.md")) if name.startswith("chartbound")}
    assert described == set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS)
def test_no_option_is_described_that_a_command_does_not_take(words: str) -> None:
    text = sections(page("commands.md"))[words]
    taken = {name for one in COMMANDS[words].params for name in (*one.opts, *one.secondary_opts)}
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `--")]
    assert {name for row in rows for name in re.findall(r"`(--[a-z-]+)", row)} <= taken


@pytest.mark.parametrize("words", COMMANDS)
def test_the_list_of_commands_shows_whole_sentences(words: str) -> None:
    help_text = COMMANDS[words].help or ""
    first = help_text.strip().splitlines()[0]
    assert first.endswith((".", "?"))
    assert 0 < len(first) <= LONGEST_SUMMARY, f"`{words}`: {len(first)} characters: {first}"


def test_the_version_is_told() -> None:
    said = CliRunner().invoke(command_line(), ["--version"])
    assert (said.exit_code, said.stdout.strip()) == (0, f"chartbound {__version__}")


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_of_a_simulated_wire_is_named(fault: Fault) -> None:
    assert f"`{fault.value}`" in sections(page("commands.md"))["chartbound simulate instrument"]


def test_each_way_in_which_the_simulated_ehr_answers_is_named() -> None:
    assert simulators.app.registered_commands
    text = sections(page("commands.md"))["chartbound simulate ehr"]
    assert not [name for name in ehr.BEHAVIOURS if f"`{name}`" not in text]


SECTIONS: dict[str, type[BaseModel]] = {
    "[site]": site.SiteSection,
    "[store]": site.Store,
    "[[instruments]]": site.Instrument,
    "[orders]": site.Orders,
    "[matching]": site.Matching,
    "[[destinations]]": site.Destination,
    "[[reference_labs]]": site.ReferenceLab,
    "[web]": site.Web,
}


def test_each_section_of_the_site_file_is_described() -> None:
    assert {name.strip("[]") for name in SECTIONS} == set(site.Site.model_fields)
    assert set(SECTIONS) <= set(sections(page("site-file.md")))


@pytest.mark.parametrize("section", SECTIONS)
def test_each_key_of_the_site_file_has_its_row(section: str) -> None:
    text = sections(page("site-file.md"))[section]
    fields = set(SECTIONS[section].model_fields)
    if section == "[[destinations]]":
        fields |= set(site.Tls.model_fields)
    assert not [name for name in fields if not re.search(rf"^\| `{name}` \|", text, flags=re.MULTILINE)]


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_of_a_hold_says_what_to_do(reason: Reason) -> None:
    row = re.search(rf"^\| `{reason.value}` \|(.+)\|(.+)\|$", page("matching.md"), flags=re.MULTILINE)
    assert row
    assert row[1].strip()
    assert row[2].strip()


@pytest.mark.parametrize("column", catalog.COLUMNS)
def test_each_column_of_the_catalog_is_described(column: str) -> None:
    assert f"`{column}`" in page("matching.md")


@pytest.mark.parametrize("state", STATES)
def test_each_state_of_a_result_is_described(state: str) -> None:
    assert f"| `{state}` |" in page("ledger-and-journal.md")


def keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation)


@pytest.mark.parametrize("key", sorted(set(keys(profile.Profile))))
def test_each_key_of_a_profile_is_described(key: str) -> None:
    assert re.search(rf"`\[?{key}\]?`", page("ehr.md"))


@pytest.mark.parametrize("driver", list(drivers.shipped()), ids=lambda driver: driver.name)
def test_each_driver_is_described_with_its_evidence_and_options(driver: drivers.Driver) -> None:
    text = page("instruments.md")
    row = re.search(rf"^\| `{driver.name}` \|.+$", text, flags=re.MULTILINE)
    assert row
    assert row[0].rstrip("| ").endswith(driver.evidence.value)
    own = sections(text)[driver.name]
    assert not [name for name in driver.options.model_fields if f"`{name}" not in own]


@pytest.mark.parametrize("column", COLUMNS)
def test_each_column_of_an_order_file_is_described(column: str) -> None:
    assert re.search(rf"^\| .*`{column}`.* \|", page("files.md"), flags=re.MULTILINE)


def fenced(path: Path, language: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL))


EXAMPLES = [(path, text) for path in PAGES for text in fenced(path, "toml")]


@pytest.mark.parametrize(("path", "text"), EXAMPLES, ids=[f"{path.stem}-{n}" for n, (path, _) in enumerate(EXAMPLES)])
def test_each_example_of_a_site_file_loads(path: Path, text: str, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(text, "utf-8")
    found = site.load(file)
    assert found.instruments
    assert tomllib.loads(text)["site"]["facility"] == found.facility, path


def test_the_example_of_an_order_file_can_be_imported() -> None:
    [text] = [text for text in fenced(ROOT / "docs" / "files.md", "") if text.startswith("specimen_id")]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows
    assert all(tuple(row) == COLUMNS and None not in row.values() for row in rows)


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_link_to_another_page_leads_somewhere(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_command_that_a_page_names_exists(path: Path) -> None:
    known = [name.removeprefix("chartbound ") for name in COMMANDS]
    shown = [line for block in fenced(path, "") for line in block.splitlines()] + re.findall(
        r"`([^`\n]+)`", path.read_text("utf-8")
    )
    said = [found[1] for text in shown if (found := re.search(r"^(?:.*&& )?chartbound ([a-z][a-z ]+)", text))]
    assert said or path.name in ("CHANGELOG.md", "glossary.md")
    unknown = [words for words in said if not any(f"{words} ".startswith(f"{name} ") for name in known)]
    groups = {name.rpartition(" ")[0] for name in known}
    assert not [words for words in unknown if words.strip() not in groups]


def test_the_map_of_the_package_names_files_that_stand() -> None:
    import chartbound

    named = set(re.findall(r"\b(?:agent|drivers|hl7|config|simulators)/[\w./]+?\.(?:py|csv|toml)\b", chartbound.__doc__ or ""))
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_readme_carries_the_notice_of_loinc() -> None:
    plain = " ".join((ROOT / "README.md").read_text("utf-8").split())
    notice = " ".join((ROOT / "NOTICE").read_text("utf-8").split())
    start = notice.index("This material contains content from LOINC")
    end = notice.index("trademark of Regenstrief Institute, Inc.", start)
    assert notice[start:end] in plain
