r"""Siemens DCA Vantage: HbA1c in blood; albumin, creatinine and their ratio in urine.

    STX 1H|\^&|||DCA VANTAGE^04.04.00.00^S012345|||||||P||20260115093000 CR P|1|S-1001 CR
    O|1||412^0090||||||||||||||||||||||F CR
    R|1|^^^HbA1c|6.1|%||||F||op1|20260115092400 CR C|1|I|1.000^0.0 %^NGSP^128 mg/dL|G CR L|1|N CR ETX hh CR LF

Set-up at the instrument: choose the ASTM host protocol, by serial cable or Ethernet (Ethernet leaves the factory set to
POCT1-A2, which this driver does not speak). The manual's serial settings were not found: 9600 8N1 is assumed, `baud` overrides
it. The whole message is sent in one frame of any length.

What the one id of the instrument's screen holds is a habit of the site: `id_is = "specimen"` where the specimen label is
scanned, `"patient"` where the patient's number is. Controls run from the menu say so; `control_ids` names ids that staff type
for others.

A service mode run (H.12 D), and anything else that does not say it is a patient's, is of unknown kind: held, never charted.
Estimated average glucose and estimated GFR come in comments and are kept as remarks, not as results. A run that gave no result
is reported as an error.

Sources: positions and codes from a public LIS interface that cites Siemens' "Host Computer Communications Link" (17306 Rev. E),
and its capture of an Alb/Crt/Ratio run. From memory: that HbA1c is named `HbA1c`; no capture of such a run was found.
Sequence numbers run from 001 to 999 and begin again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from .driver import Contact, Driver, Evidence, Options, UnreadableReport
from .link import Link
from .lis1a import Receiver
from .lis2a import Message, Order, Record, split_comparator, timestamp
from .lis2a import parse as parse_records
from .report import Observation, Report, SampleKind, is_control_id


class DcaVantageOptions(Options):
    """What the site's habits decide and the messages do not say."""

    id_is: Literal["specimen", "patient"] = "specimen"  # what P.3 holds
    control_ids: tuple[str, ...] = ()  # patterns such as "QC*" on that id, in any case of letters


def parse(unit: bytes, options: DcaVantageOptions) -> list[Report]:
    """One report for each order: its specimen, and the one to three values below it.

    Raises `UnreadableReport` where the records cannot be read or come from another model.
    """
    message = parse_records(unit)
    model = message.header.component(5, 1)
    if model.upper() != "DCA VANTAGE":
        raise UnreadableReport(
            "record 1 (H), field 5", f"a DCA VANTAGE is due on this port, and this is {model[:40]!r}; check cable and driver"
        )
    return [_report(message, order, options) for order in message.orders()]


def _report(message: Message, order: Order, options: DcaVantageOptions) -> Report:
    header = message.header
    stated_id = order.patient.field(3).strip()
    sequence = order.order.component(4, 1).strip()
    serial_number = header.component(5, 3).strip()
    observations: list[Observation] = []
    problems: list[str] = []
    for record in order.results:
        observation, problem = _observation(record)
        if observation is not None:
            observations.append(observation)
        if problem:
            problems.append(problem)
    # R.12 is when the test began; the values of one cartridge share it.
    said_at = next((record.field(12) for record in order.results if record.field(12)), "")
    time = timestamp(said_at)
    clock = timestamp(header.field(14))
    kind = _kind(message, order, stated_id, options)
    if kind is SampleKind.PATIENT and not observations and not problems:
        kind = SampleKind.ERROR
    status = order.order.field(26) or "F"
    if status not in ("F", "C"):
        problems.append("O.26 is neither F (final) nor C (correction)")
    return Report(
        kind=kind,
        kind_by_id=kind is SampleKind.CONTROL and order.order.field(12) != "Q",
        observations=tuple(observations),
        observed_at=time[0] if time else None,
        precision=time[1] if time else timedelta(seconds=1),
        clock=clock[0] if clock else None,
        identity=(serial_number, sequence, said_at) if serial_number and sequence and said_at else (),
        sequence=int(sequence) if sequence.isascii() and sequence.isdigit() and len(sequence) < 10 else None,
        model=header.component(5, 1),
        serial_number=serial_number,
        panel=observations[0].code if len(observations) == 1 else "",
        specimen_id=stated_id if options.id_is == "specimen" else "",
        patient_id=stated_id if options.id_is == "patient" else "",
        last_name=order.patient.component(6, 1),
        first_name=order.patient.component(6, 2),
        operator=next((record.field(11) for record in order.results if record.field(11)), ""),
        lot=order.order.component(4, 2),
        status=status,
        remarks=tuple(comment.field(4) for comment in order.order.comments + order.patient.comments),
        problem="; ".join(problems),
    )


def _kind(message: Message, order: Order, stated_id: str, options: DcaVantageOptions) -> SampleKind:
    action = order.order.field(12)
    if action == "Q":
        return SampleKind.CONTROL
    if stated_id and is_control_id(stated_id, options.control_ids):
        return SampleKind.CONTROL
    if message.header.field(12) == "P" and not action:  # O.12 is unused but for controls
        return SampleKind.PATIENT
    return SampleKind.UNKNOWN


def _observation(record: Record) -> tuple[Observation | None, str]:
    """The value of a result record, and what in it could not be read."""
    code = record.component(3, 4)
    stated = record.field(4).strip()
    if not stated:
        return None, ""
    comparator, value = split_comparator(stated)
    marks = record.repeats(7)
    beyond = [mark for mark in marks if mark in ("<", ">")]  # outside the measuring range
    problem = ""
    if len(set(beyond)) > 1 or (beyond and comparator and comparator[0] != beyond[0]):
        problem = f"result {code}: R.4 and R.7 do not agree on < and >"
    elif beyond and not comparator:
        comparator = beyond[0]
    observation = Observation(
        code=code,
        value=value,
        unit=record.field(5),
        comparator=comparator,
        flag="\\".join(mark for mark in marks if mark not in ("<", ">")),
        raw="|".join(record.raw(number) for number in range(4, 8)) if comparator else "",
        note="; ".join(comment.field(4) for comment in record.comments),
    )
    return observation, problem


def _connect(_options: DcaVantageOptions, _contact: Contact) -> Link:
    return Receiver()


DRIVER = Driver(
    name="dca_vantage",
    instrument="Siemens DCA Vantage",
    kind="HbA1c, urine albumin/creatinine",
    link="LIS1-A",
    transport=("serial", "tcp"),
    evidence=Evidence.DOCUMENTED,
    parse=parse,
    connect=_connect,
    options=DcaVantageOptions,
)
