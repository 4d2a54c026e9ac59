"""A site's own instrument: one driver file and its catalog rows beside the site file, and every command knows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from chartbound.__main__ import command_line
from chartbound.config.catalog import COLUMNS

DRIVER = '''"""Acme G1: one number a line.

    < 112 CR
"""

from chartbound.drivers.driver import Driver, Evidence, Options, UnreadableReport
from chartbound.drivers.report import Observation, Report, SampleKind


class AcmeOptions(Options):
    unit: str = "mg/dL"


def parse(unit: bytes, options: AcmeOptions) -> list[Report]:
    text = unit.decode("ascii").strip()
    if not text.isdigit():
        raise UnreadableReport("line 1", "a number is due")
    return [Report(SampleKind.PATIENT, (Observation("GLU", text, options.unit),))]


DRIVER = Driver(name="acme_g1", instrument="Acme G1", kind="glucose", link="files", transport=("files",),
                evidence=Evidence.THIN, parse=parse, options=AcmeOptions)
'''
ROWS = f"""{",".join(COLUMNS)}
acme_g1,GLU,mg/dL,41653-7,Glucose [Mass/volume] in Capillary blood by Glucometer,mg/dL,NM,BLDC,82962 41653-7,,,,
"""
SITE = """[site]
facility = "RIVERSIDE"
timezone = "UTC"
drivers_folder = "drivers"
[[instruments]]
name = "acme"
driver = "acme_g1"
folder = "drop"
[[destinations]]
name = "ehr"
address = "127.0.0.1:2575"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, text in (("site.toml", SITE), ("drivers/acme_g1.py", DRIVER), ("catalog/acme_g1.csv", ROWS)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def chartbound(*words: str) -> Result:
    return CliRunner().invoke(command_line(), list(words))


def test_a_sites_own_driver_passes_the_check_and_its_message_conforms(site: Path) -> None:
    said = chartbound("check", str(site), "--json")
    found = json.loads(said.stdout)
    assert said.exit_code == 0
    assert [one["instrument"] for one in found["samples"]] == ["acme"]


def test_a_sites_own_driver_is_listed_and_explained_whether_its_file_or_folder_is_named(site: Path) -> None:
    for named in (site, site / "site.toml"):
        listed = json.loads(chartbound("drivers", "--site", str(named), "--json").stdout)
        assert "acme_g1" in [row["name"] for row in listed]
        assert "one number a line" in chartbound("drivers", "acme_g1", "--site", str(named)).stdout


def test_a_transcript_is_read_with_a_sites_own_driver(site: Path) -> None:
    wire = site / "wire.txt"
    wire.write_text("# evidence: composed\n# source: this test\n# driver: acme_g1\n< 112 CR\n", "utf-8")
    said = chartbound("replay", str(wire), "--site", str(site), "--option", "unit=mmol/L", "--json")
    [report] = json.loads(said.stdout)
    assert report["report"]["observations"][0] == {"code": "GLU", "value": "112", "unit": "mmol/L"}
    unknown = chartbound("replay", str(wire))
    assert unknown.exit_code == 1
    assert "no driver acme_g1" in unknown.stderr
