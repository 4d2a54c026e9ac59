"""`init`, `check`, `drivers` and `ports`: what they find, before any of it is printed."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from serial.tools.list_ports_common import ListPortInfo

from chartbound.agent import check, serial_ports
from chartbound.config import toml_file
from chartbound.config.address import port_kind
from chartbound.config.errors import ConfigErrors
from chartbound.config.site import Site
from chartbound.drivers import driver as drivers

SITE = """\
[site]
facility = "RIVERSIDE"
timezone = "America/Chicago"
[[instruments]]
name = "glucose-1"
driver = "onetouch_ultra2"
port = "COM4"
[[instruments]]
name = "urine-1"
driver = "clinitek_status"
port = "listen://0.0.0.0:4002"
options = { date_order = "mdy" }
[[instruments]]
name = "ekg-cart"
driver = "ekg"
folder = "drop/ekg"
[[destinations]]
name = "ehr"
address = "127.0.0.1:2575"
"""


def site_file(folder: Path, text: str = SITE) -> Path:
    path = folder / "site.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_init_writes_a_site_file_that_checks_and_never_overwrites_one(tmp_path: Path) -> None:
    path = check.init(tmp_path / "new" / "clinic")
    checked = check.check(path)
    assert checked.site.facility == "RIVERSIDE"
    assert not checked.problems
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        check.init(path.parent)
    assert path.read_text() == "mine"


def test_every_example_in_the_written_file_is_right_once_it_is_taken_up(tmp_path: Path) -> None:
    """Lines behind a single # that look like TOML are what people will uncomment first."""
    lines = check.init(tmp_path).read_text(encoding="utf-8").splitlines()
    taken_up = []
    for line in lines:
        example = line.removeprefix("# ")
        is_toml = line.startswith("# ") and (example.startswith("[") or example.partition(" = ")[0].isidentifier())
        taken_up.append(example if is_toml and "drivers_folder" not in line and "env:" not in line else line)
    checked = check.check(site_file(tmp_path, "\n".join(taken_up)))
    assert [one.driver for one in checked.site.instruments] == ["onetouch_ultra2", "clinitek_status", "ekg"]
    assert checked.site.reference_labs[0].name == "QUEST"
    assert not checked.problems


def test_every_key_of_the_site_file_stands_in_the_example() -> None:
    text = files("chartbound").joinpath("config", "site.example.toml").read_text(encoding="utf-8")
    tomllib.loads(text)

    def documented(key: str) -> bool:
        return any(f"{start}{key}{end}" in text for start in ("\n", "# ", "[", "{ ", ", ", ".") for end in (" = ", "]", "."))

    for name, section in Site.model_fields.items():
        assert documented(name), name
        model = toml_file.model_in(section.annotation)
        assert model is not None
        missing = [key for key in model.model_fields if not documented(key)]
        assert not missing, (name, missing)


def test_a_sound_site_is_summed_up_and_its_examples_are_to_be_confirmed(tmp_path: Path) -> None:
    checked = check.check(site_file(tmp_path))
    assert checked.problems == ()
    assert {(one.instrument, one.destination) for one in checked.samples} == {
        ("glucose-1", "ehr"),
        ("urine-1", "ehr"),
        ("ekg-cart", "ehr"),
    }
    assert all(one.message.startswith(b"MSH|") and b"\rOBX|" in one.message for one in checked.samples)
    assert any(line.startswith("urine-1: ") and "listen://0.0.0.0:4002" in line for line in checked.summary)
    assert checked.to_confirm[0].startswith("onetouch_ultra2 GLU mg/dL: plausible 10 to 700, critical 50 to 450 are examples")
    assert any("[orders]" in note for note in checked.notes)


@pytest.mark.parametrize("version", ["2.5.1", "2.4", "2.3"])
def test_the_samples_of_every_shipped_instrument_conform_in_every_version(tmp_path: Path, version: str) -> None:
    older = 'specimen_in = "OBR-15"\nperforming_site_in = "OBX-15"\ncoded_type = "CE"\n'
    (tmp_path / "ours.toml").write_text(f'version = "{version}"\n' + (older if version != "2.5.1" else ""))
    checked = check.check(site_file(tmp_path, SITE + 'profile = "ours"\n'))
    assert checked.problems == ()
    assert {one.message.split(b"|")[11].split(b"\r")[0] for one in checked.samples} == {version.encode()}


def test_a_catalog_row_that_cannot_be_said_in_hl7_is_a_problem_of_its_instrument(tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    shipped = files("chartbound").joinpath("config", "catalog", "clinitek_status.csv").read_text(encoding="utf-8")
    row = f"clinitek_status,XYZ,,5811-5,Specific gravity of Urine by Test strip,{'u' * 30},NM,UR,X1,,,,"
    (tmp_path / "catalog" / "ours.csv").write_text(f"{shipped.splitlines()[0]}\n{row}\n")
    (problem,) = check.check(site_file(tmp_path)).problems
    assert problem.startswith("urine-1 → ehr (X1): OBX-6")


def test_mistakes_of_site_file_and_catalog_come_together(tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "ours.csv").write_text("driver\n")
    with pytest.raises(ConfigErrors) as caught:
        check.check(site_file(tmp_path, SITE.replace("COM4", "COM")))
    assert {error.file.name for error in caught.value.errors} == {"site.toml", "ours.csv"}


def test_what_is_allowed_but_perhaps_not_meant_is_noted(tmp_path: Path) -> None:
    text = SITE.replace('port = "COM4"', 'port = "COM4"\nconfirm_claims = false')
    text += 'instruments = ["urine-1", "ekg-cart"]\ntests = ["24357-6", "1-2"]\n'
    notes = check.check(site_file(tmp_path, text)).notes
    assert any("glucose-1: claimed results are filed without" in note for note in notes)
    assert any(note == "glucose-1: no destination takes its results" for note in notes)
    assert [note for note in notes if "ehr: " in note] == ["ehr: no row of the catalog has the code 1-2 that tests names"]


def test_the_rows_of_drivers_have_the_agreed_keys() -> None:
    rows = check.driver_rows()
    assert "clinitek_status" in [row["name"] for row in rows]
    for row in rows:
        assert list(row) == ["name", "instrument", "kind", "link", "transport", "evidence"]
        assert row["evidence"] in ("captured", "documented", "thin")
        assert drivers.find(row["name"]).help


def test_a_drivers_options_are_listed_with_what_they_take() -> None:
    by_name = {row["name"]: row for row in check.option_rows(drivers.find("clinitek_status"))}
    assert by_name["date_order"]["required"]
    assert "'mdy'" in by_name["date_order"]["form"]
    assert by_name["control_ids"]["default"] == ("CONTROL*", "QC*")


def test_a_port_is_listed_with_the_name_that_the_site_file_takes() -> None:
    adapter = ListPortInfo("COM10")
    adapter.vid, adapter.pid, adapter.serial_number, adapter.description = 0x0403, 0x6001, "A10LZ1", "USB \x1b[31mSerial"
    blank = ListPortInfo("COM4")
    blank.vid, blank.pid, blank.serial_number = 0x1A61, 0x3420, "A 1"
    plain = ListPortInfo("/dev/ttyS0")
    rows = serial_ports.listing([plain, adapter, blank])
    assert [(row.device, row.usb) for row in rows] == [
        ("COM4", "usb:1a61:3420"),
        ("COM10", "usb:0403:6001:A10LZ1"),
        ("/dev/ttyS0", ""),
    ]
    assert rows[1].description == "USB ?[31mSerial"
    assert rows[2].description == ""
    assert all(port_kind(row.usb) == "usb" for row in rows if row.usb)
    assert isinstance(serial_ports.listing(), list)
