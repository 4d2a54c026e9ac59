"""Order files dropped into a folder: messages and rows, the good taken and the bad left, and what code a row's test has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import Engine

from chartbound.agent.order_folder import order_folder
from chartbound.agent.order_messages import messages_of
from chartbound.agent.orders import COLUMNS
from chartbound.agent.store import specimens
from chartbound.agent.store.engine import reading
from chartbound.hl7 import mllp
from chartbound.hl7.chart import Specimen

from .clinic import BEN, SITE, Clinic, open_clinic
from .order_feed import ORDERS, order


@pytest.fixture
def clinic(store: Engine, tmp_path: Path) -> Clinic:
    (tmp_path / "drop" / "orders").mkdir(parents=True)
    return open_clinic(store, tmp_path, SITE + ORDERS)


def drop(clinic: Clinic, **files: bytes) -> dict[str, list[str]]:
    """Drop these files and let them be taken; return the names in `done` and `failed`."""
    path = clinic.verdicts.site.orders.folder
    assert path
    for name, content in files.items():
        (path / name.replace("_", ".")).write_bytes(content)
    folder = order_folder(clinic.verdicts.site, clinic.verdicts, clinic.engine, lambda: None)
    for now in (0.0, 2.0):
        folder.scan(now)
    while folder.take_ready(2.0):
        pass
    return {end: sorted(one.name for one in (path / end).glob("*")) for end in ("done", "failed")}


def register(clinic: Clinic) -> dict[str, Specimen]:
    with reading(clinic.engine) as conn:
        return {one.specimen.specimen_id: one.specimen for one in specimens.listed(conn)}


def test_a_file_of_messages_is_taken_one_by_one(clinic: Clinic) -> None:
    """Framed or not, in a batch or not; what is refused leaves the others be."""
    good, bad = order().message("NW"), order(patient=BEN).message("NW")
    also = order("S-2", number="P-2").message("NW").replace(b"\r", b"\r\n")
    ends = drop(
        clinic,
        batch_HL7=b"FHS|^~\\&\rBHS|^~\\&\r" + good + bad + also + b"BTS|3\rFTS|1\r",
        framed_hl7=mllp.frame(order("S-3", number="P-3").message("NW")),
        none_hl7=b"no message at all",
        other_hl7=bad,
    )
    assert sorted(register(clinic)) == ["S-1", "S-2", "S-3"]
    assert ends == {"done": ["batch.HL7", "framed.hl7"], "failed": ["none.hl7", "other.hl7"]}


def test_the_oldest_file_is_taken_first(clinic: Clinic) -> None:
    """Whatever its name: an order that came after its own cancellation would stay closed and go to `failed`."""
    path = clinic.verdicts.site.orders.folder
    assert path
    for name, control, at in (("z.hl7", "NW", 1_000), ("m.hl7", "XO", 2_000), ("a.hl7", "CA", 3_000)):
        (path / name).write_bytes(order().message(control))
        os.utime(path / name, (at, at))
    assert drop(clinic) == {"done": ["a.hl7", "m.hl7", "z.hl7"], "failed": []}
    assert register(clinic)["S-1"].cancelled


def test_a_batch_is_parted_at_its_messages() -> None:
    one, two = order().message("NW"), order("S-2").message("NW")
    for content in (one + two, mllp.frame(one) + mllp.frame(two), b"BHS|^~\\&\r" + one + b"\r\n" + two + b"BTS|2\rFTS|1"):
        assert messages_of(content) == [one, two]
    assert messages_of(b"") == []
    assert messages_of(b"PID|MSH") == []


def test_a_rows_code_is_loinc_where_the_catalog_has_it_so(clinic: Clinic) -> None:
    row = dict.fromkeys(COLUMNS, "") | {"mrn": "1", "last_name": "DOE", "birth_date": "1970-01-02"}
    rows = [row | {"specimen_id": f"S-{code}", "test_code": code} for code in ("4548-4", "83036", "99999-9")]
    text = "\n".join([",".join(COLUMNS), *(",".join(one.values()) for one in rows)])
    assert drop(clinic, orders_csv=text.encode())["done"] == ["orders.csv"]
    assert {label: one.tests[0].coding_system for label, one in register(clinic).items()} == {
        "S-4548-4": "LN",
        "S-83036": "",
        "S-99999-9": "",
    }
