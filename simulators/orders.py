r"""An order feed: what an EHR sends when tests are ordered, cancelled, or a patient's name changes, one message at a time.

    OML^O21 (or ORM^O01) with ORC-1 NW, then on request ADT^A08 with the patient's new name and the same order with ORC-1 CA.

It waits for the acknowledgment of each message, and sends the same bytes again where none came: as an EHR's interface does.
All patients are invented.
"""

from __future__ import annotations

import random
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from ..config.address import Address, parse_address
from ..hl7 import ack as acks
from ..hl7 import er7, mllp
from ..hl7.chart import Patient

TESTS = {"41653-7": "Glucose", "4548-4": "HbA1c", "24357-6": "Urinalysis"}  # LOINC
_LAST = ("RIVERA", "OKAFOR", "NGUYEN", "SCHMIDT", "O'NEILL", "HADDAD", "KOWALSKI", "DE LA CRUZ")
_FIRST = ("ANA", "BEN", "CHI", "DORA", "EMIL", "FATIMA", "GRETA", "HUGO")


@dataclass(frozen=True, slots=True)
class Order:
    """One order as the EHR has it: a patient, a labelled specimen, and the codes of the tests."""

    number: str  # the placer's, ORC-2
    label: str  # SPM-2, and OBR-3 in an ORM, which has no SPM
    patient: Patient
    tests: tuple[str, ...]
    at: datetime  # aware
    authority: str = field(default="SIM")

    def message(self, control: str, kind: str = "OML^O21") -> bytes:
        """The order message with this ORC-1."""
        at = er7.timestamp(self.at)
        segments = [self._msh(f"{kind}^{kind.replace('^', '_')}", at), self._pid(), f"ORC|{control}|{self.number}|||||||{at}"]
        for position, code in enumerate(self.tests, start=1):
            name = er7.escape(TESTS.get(code, code))
            filler = self.label if kind == "ORM^O01" else ""
            segments.append(f"OBR|{position}|{self.number}|{er7.escape(filler)}|{er7.escape(code)}^{name}^LN|||{at}")
        if kind == "OML^O21":
            segments.append(f"SPM|1|{er7.escape(self.label)}||BLD^^HL70487|||||||||||||{at}")
        return _bytes(segments)

    def update(self) -> bytes:
        """An ADT^A08 that says the patient as the order does."""
        at = er7.timestamp(self.at)
        return _bytes([self._msh("ADT^A08^ADT_A01", at), f"EVN|A08|{at}", self._pid(), "PV1|1|O"])

    def _msh(self, kind: str, at: str) -> str:
        return f"MSH|^~\\&|EHR|SIMULATED|||{at}||{kind}|{secrets.token_hex(8).upper()}|P|2.5.1||||||UNICODE UTF-8"

    def _pid(self) -> str:
        who = self.patient
        born = er7.day(who.birth_date) if who.birth_date else ""
        name = f"{er7.escape(who.last_name)}^{er7.escape(who.first_name)}"
        return f"PID|1||{er7.escape(who.mrn)}^^^{self.authority}^MR||{name}||{born}|{who.sex}"


def _bytes(segments: list[str]) -> bytes:
    return ("\r".join(segments) + "\r").encode()


def orders(count: int, at: datetime, rng: random.Random, *, first: int = 1, tests: tuple[str, ...] = ()) -> Iterator[Order]:
    """Plausible orders, numbered from `first`: label `SIM-000001`, placer order `P-000001`."""
    for number in range(first, first + count):
        patient = Patient(
            mrn=f"{700000 + number}",
            last_name=rng.choice(_LAST),
            first_name=rng.choice(_FIRST),
            birth_date=date(1930, 1, 1) + timedelta(days=rng.randrange(30000)),
            sex=rng.choice("FM"),
        )
        yield Order(f"P-{number:06}", f"SIM-{number:06}", patient, tests or (rng.choice(list(TESTS)),), at)


class OrderFeed:
    """The connection to one receiver of orders, made when it is needed."""

    def __init__(self, address: Address, *, timeout: float = 10.0) -> None:
        self.address, self.timeout = address, timeout
        self._wire: socket.socket | None = None

    def send(self, message: bytes, *, tries: int = 1, pause: float = 1.0) -> acks.Ack:
        """Send until it is accepted, `tries` times at the most, and return the last answer. Raises `OSError` without one."""
        for left in range(tries - 1, -1, -1):
            try:
                answer = self._exchange(message)
                if answer.code in acks.ACCEPTED or not left:
                    return answer
            except OSError:
                self.close()
                if not left:
                    raise
            time.sleep(pause)
        raise ValueError("tries must be 1 or more")

    def _exchange(self, message: bytes) -> acks.Ack:
        if self._wire is None:
            self._wire = socket.create_connection((self.address.host, self.address.port), self.timeout)
        self._wire.settimeout(self.timeout)
        self._wire.sendall(mllp.frame(message))
        decoder = mllp.Decoder(acks.MAX_ACK_SIZE)
        while data := self._wire.recv(65536):
            for answer in decoder.receive_data(data):
                try:
                    return acks.read(answer)
                except acks.UnreadableAck as problem:
                    raise OSError(str(problem)) from None
        raise OSError("the receiver hung up without an answer")

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def __enter__(self) -> OrderFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def command(
    to: Annotated[str, typer.Option(help="HOST:PORT, as in [orders] listen")],
    count: Annotated[int, typer.Option(min=0, help="How many orders it sends.")] = 1,
    first: Annotated[int, typer.Option(min=1, help="The number of the first order; labels are SIM-000001 and so on.")] = 1,
    test: Annotated[list[str] | None, typer.Option(help="A LOINC code that each orders; may be repeated.")] = None,
    orm: Annotated[bool, typer.Option("--orm", help="Send ORM^O01, with the label in OBR-3, instead of OML^O21.")] = False,
    update: Annotated[bool, typer.Option("--update", help="After each order, change its patient's name (ADT^A08).")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel each order in the end.")] = False,
    every: Annotated[float, typer.Option(min=0.0, help="Seconds from one order to the next.")] = 0.0,
    tries: Annotated[int, typer.Option(min=1, help="How often a message is sent that is not accepted.")] = 3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same patients.")] = 0,
) -> None:
    """A simulated order feed: what an EHR sends over MLLP."""
    try:
        address = parse_address(to)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from None
    kind = "ORM^O01" if orm else "OML^O21"
    accepted = True
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    with OrderFeed(address) as feed:
        for order in orders(count, datetime.now(UTC), rng, first=first, tests=tuple(test or ())):
            messages = [("new", order.message("NW", kind))]
            if update:
                renamed = replace(order, patient=replace(order.patient, last_name=f"{order.patient.last_name}-NEW"))
                messages.append(("update", renamed.update()))
            if cancel:
                messages.append(("cancel", order.message("CA", kind)))
            for what, message in messages:
                try:
                    answer = feed.send(message, tries=tries)
                except OSError as error:
                    typer.echo(f"{order.label}  {what}  no answer: {error}", err=True)
                    raise typer.Exit(1) from None
                accepted = accepted and answer.code in acks.ACCEPTED
                typer.echo(f"{order.label}  {what}  {answer.code}{'  ' + repr(answer.text) if answer.text else ''}")
            if every:
                time.sleep(every)
    raise typer.Exit(0 if accepted else 1)
