"""A simulated EKG cart: it drops a Philips XML file for each tracing, as a whole, half first, renamed in, or written over.

The files are composed to the form that the driver reads (see drivers/ekg_formats/philips.py) and hold no real person's EKG.
Real carts write UTF-16 (PageWriter) and UTF-8 (HeartStart); here a tracing with an odd number is version 1.03 in UTF-8, one
with an even number version 1.04 in UTF-16. A tracing that is of no patient bears an id that says so ("QC-EKG"), which the
site's `control_ids` must name, or, of unknown kind, the word Demo on its report.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5
from xml.sax.saxutils import escape, quoteattr

from ..drivers.link import Event, Outgoing
from ..drivers.report import SampleKind
from .peer import SimulatedTest, Simulator

USUAL = {
    "heartrate": "72",
    "print": "158",
    "qrsdur": "92",
    "qtint": "386",
    "qtcb": "423",
    "qtcf": "410",
    "pfrontaxis": "48",
    "qrsfrontaxis": "31",
    "tfrontaxis": "40",
}
_TAGS_1_03 = {"print": "meanprint", "qrsdur": "meanqrsdur", "qtint": "meanqtint", "qtcb": "meanqtc", "qtc": "meanqtc"}
_STATEMENTS = (("SR", "Sinus rhythm", "normal P axis, V-rate 50-99"),)


class Drop(StrEnum):
    """How the file comes into the folder."""

    WHOLE = "whole"
    HALF_FIRST = "half first"  # written in two parts, under its own name
    RENAMED = "renamed"  # written as .tmp, then renamed
    OVERWRITTEN = "overwritten"  # an earlier state of the same EKG is there for a while


def write(
    test: SimulatedTest,
    *,
    version: str = "",
    encoding: str = "",
    confirmed: bool = False,
    order_number: str = "",
    serial_number: str = "US00000001",
) -> bytes:
    """The bytes of one file. `version` is "1.03" or "1.04"; `encoding` one that XML parsers know ("utf-8", "utf-16", …)."""
    version = version or ("1.03" if test.sequence % 2 else "1.04")
    encoding = encoding or ("utf-8" if version == "1.03" else "utf-16")
    values = dict(test.values) or USUAL
    old = version == "1.03"
    if old:
        values = {_TAGS_1_03.get(code, code): value for code, value in values.items() if code != "qtcf"}
    measurements = "".join(f"<{code}>{escape(value)}</{code}>" for code, value in values.items())
    container = "interpretationmeasurements" if old else "globalmeasurements"
    statements = "".join(
        f"<statement><statementcode>{code}</statementcode><leftstatement>{escape(left)}</leftstatement>"
        f"<rightstatement>{escape(right)}</rightstatement></statement>"
        for code, left, right in _STATEMENTS
    )
    day, time = f"{test.at:%Y-%m-%d}", f"{test.at:%H:%M:%S}"
    patient_id = test.patient_id or ("QC-EKG" if test.kind is SampleKind.CONTROL else "")
    label = "Demo 12 Lead" if test.kind is SampleKind.UNKNOWN else "Standard 12 Lead Report"
    order = order_number or test.specimen_id
    document = uuid5(NAMESPACE_URL, f"{serial_number} {test.at.isoformat()} {test.sequence}")
    signature = "Confirmed by: Examiner, A, MD" if confirmed else "Unconfirmed diagnosis"
    operator = f"<operatorid>{escape(test.operator)}</operatorid>" if old else f"<operator id={quoteattr(test.operator)}/>"
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n'
        f'<restingecgdata xmlns="http://www3.medical.philips.com" status="{"Confirmed" if confirmed else "New"}">\n'
        f"<documentinfo><documentname>{document}.xml</documentname>"
        f"<documenttype>{'SierraECG' if old else 'PhilipsECG'}</documenttype>"
        f"<documentversion>{version}</documentversion></documentinfo>\n"
        f"{'' if old else f'<orderinfo><ordernumber>{escape(order)}</ordernumber><uniqueorderid/></orderinfo>'}\n"
        f'<reportinfo date="{day}" time="{time}"><reportdescription>{label}</reportdescription></reportinfo>\n'
        f'<dataacquisition date="{day}" time="{time}"><machine machineid={quoteattr(serial_number)} '
        f'detaildescription="Composed:000000:A.00.00">PageWriter</machine><acquirer>{operator}</acquirer></dataacquisition>\n'
        f"<patient><generalpatientdata><patientid>{escape(patient_id)}</patientid><MRN>---</MRN>"
        f"<name><lastname>{escape(test.last_name) or '---'}</lastname><firstname>{escape(test.first_name)}</firstname></name>"
        f"<age><dateofbirth>{test.birth_date}</dateofbirth></age><sex>Unknown</sex></generalpatientdata></patient>\n"
        f"<internalmeasurements><heartrate>199</heartrate></internalmeasurements>\n"
        f"<interpretations><interpretation><interpretationdatastructure><lhsstatement>V-rate ***</lhsstatement>"
        f"</interpretationdatastructure><{container}>{measurements}</{container}>"
        f'<mdsignatureline>{signature}</mdsignatureline><severity code="NO">- NORMAL ECG -</severity>{statements}'
        f"</interpretation></interpretations>\n</restingecgdata>\n"
    )
    return text.encode(encoding)


def drop(folder: Path, name: str, data: bytes, how: Drop = Drop.WHOLE, earlier: bytes = b"") -> Iterator[str]:
    """Bring the file into the folder step by step, saying between the steps what has been done; after the last it is whole.

    `earlier` are the bytes that an overwritten file held before.
    """
    target = folder / name
    match how:
        case Drop.WHOLE:
            target.write_bytes(data)
        case Drop.HALF_FIRST:
            with target.open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                yield "half is written"
                file.write(data[len(data) // 2 :])
        case Drop.RENAMED:
            part = target.with_name(f"{name}.tmp")
            part.write_bytes(data)
            yield "written under another name"
            os.replace(part, target)  # noqa: PTH105 - a cart's software writes over what is there
        case Drop.OVERWRITTEN:
            target.write_bytes(earlier)
            yield "an earlier state is there"
            target.write_bytes(data)
    yield "whole"


class Cart:
    """The peer of the driver, for those who want bytes and no folder: each piece that it sends is one file's whole content."""

    def __init__(self, tests: Sequence[SimulatedTest]) -> None:
        self._files = [write(test) for test in tests]
        self.deadline: float | None = None

    @property
    def done(self) -> bool:
        return not self._files

    def receive_data(self, data: bytes, now: float) -> list[Event]:  # noqa: ARG002 - nobody speaks to a cart
        return []

    def handle_timeout(self, now: float) -> list[Event]:  # noqa: ARG002
        return []

    def data_to_send(self) -> list[Outgoing]:
        files, self._files = self._files, []
        return [Outgoing(file) for file in files]


def samples(count: int, at: datetime, rng: random.Random) -> list[SimulatedTest]:
    """Plausible tracings at rest, one a minute, the last at `at`."""
    return [_sample(at - timedelta(minutes=count - number), number, rng) for number in range(1, count + 1)]


def _sample(at: datetime, sequence: int, rng: random.Random) -> SimulatedTest:
    rate = rng.randint(52, 98)
    qt = round(410 * (60 / rate) ** 0.4) + rng.randint(-12, 12)
    rr = 60 / rate  # s
    values = {
        "heartrate": str(rate),
        "print": str(rng.randint(128, 196)),
        "qrsdur": str(rng.randint(78, 108)),
        "qtint": str(qt),
        "qtcb": str(round(qt / rr**0.5)),  # Bazett 1920
        "qtcf": str(round(qt / rr ** (1 / 3))),  # Fridericia 1920
        "pfrontaxis": str(rng.randint(20, 70)),
        "qrsfrontaxis": str(rng.randint(-20, 80)),
        "tfrontaxis": str(rng.randint(15, 70)),
    }
    return SimulatedTest(at=at.replace(microsecond=0), values=values, sequence=sequence, operator="MA1")


SIMULATOR = Simulator(driver="ekg", peer=lambda tests, _clock: Cart(tests), samples=samples)
