"""The demo's clinic: a morning with four instruments and an EHR that wakes up late, each a process of its own.

The agent is started as a user starts it, and everything people do is done by the commands that people use. What is printed
comes from the agent's own log.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

import typer
from rich.console import Console

from . import ekg
from .cable import Cable
from .cable import available as cable_available
from .peer import SimulatedTest

_EHR_DOWN_SECONDS = 6.0
_PATIENCE = 45.0  # seconds for any one step, many times what it takes
_EXPECTED = {"posted": 4, "qc": 1, "held": 1, "duplicate": 1}
_COLUMNS = (
    "specimen_id,accession,placer_order,mrn,last_name,first_name,birth_date,sex,test_code,test_name,"
    "specimen_type,collected_at,collector,reference_lab"
)
_ORDERS = (
    ",,P-1001,MRN-1001,RIVERA,ANA,1961-03-05,F,4548-4,HbA1c,BLD,,,",
    ",,P-1002,MRN-1002,OKAFOR,JOHN,1984-11-30,M,24357-6,Urinalysis,UR,,,",
    ",,P-1003,MRN-1003,LINDQVIST,MAJA,1999-07-14,F,41653-7,Glucose fingerstick,BLDC,,,",
    "EKG-1004,,P-1004,MRN-1004,HADDAD,SAMIR,1957-01-22,M,93000,EKG 12 leads,,,,",
)


class DemoFailed(Exception):
    """Something in the demo did not come about in time. Says what was waited for."""


@dataclass(slots=True)
class Clinic:
    """The running parts of the demo and what their log says."""

    folder: Path
    out: Console
    parts: ExitStack
    cables: dict[str, Cable] = field(default_factory=dict)
    agent: subprocess.Popen[bytes] | None = None
    lines: list[dict[str, str]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def say(self, text: str, style: str = "") -> None:
        self.out.print(text, style=style or None, markup=False)

    def chartbound(self, *words: str) -> str:
        """What this command prints, run as a user runs it."""
        done = subprocess.run(  # noqa: S603 - our own commands
            [*_COMMAND, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
            env=_environment(),
        )
        if done.returncode:
            message = f"`chartbound {' '.join(words[:2])}` ended with {done.returncode}: {done.stderr.strip()}"
            raise DemoFailed(message)
        return done.stdout

    def start(self, *words: str, errors: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a part that goes on until the demo ends."""
        part = subprocess.Popen(  # noqa: S603
            [*_COMMAND, *words], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=errors, env=_environment()
        )
        if errors is subprocess.DEVNULL:
            self.parts.callback(_end, part)
        return part

    def follow(self, log: Iterable[bytes]) -> None:
        """Read the agent's log, print each result's path, and keep what was said."""
        for raw in log:
            said = _logfmt(raw.decode("utf-8", "replace"))
            self._print(said)
            with self.news:
                self.lines.append(said)
                self.news.notify_all()

    def wait_for(self, what: str, found: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The first log line that is so; those before count too."""
        with self.news:
            seen = self.news.wait_for(lambda: any(map(found, self.lines)), _PATIENCE)
            if not seen:
                raise DemoFailed(f"{what} did not come about within {_PATIENCE:g} s; see {self.folder / 'agent.log'}")
            return next(line for line in self.lines if found(line))

    def run_instrument(self, name: str, driver: str, *words: str) -> None:
        """Run a simulated instrument as a process of its own, on the cable or socket of this instrument."""
        end = self.cables[name].instrument if name in self.cables else f"socket://{_address(self.folder, name)}"
        self.chartbound("simulate", "instrument", driver, "--port", end, *words)

    def _print(self, said: dict[str, str]) -> None:
        match said.get("event"):
            case "listening":
                self.say("  agent is listening", "dim")
            case "result":
                state, reason = said["state"], said.get("reason", "")
                words = {"queued": "matched, ORU built, queued for the EHR", "qc": "a control: to the QC log"}.get(state, state)
                self.say(f"  {said['instrument']} → result {said['result']}: {words} {reason}".rstrip(), _STYLES.get(state, ""))
            case "delivered":
                self.say(f"  result {said['result']} → {said['destination']}: {said['ack_code']}, in the chart", "green")
            case "unreachable":
                self.say(f"  {said['destination']} does not answer: results wait", "yellow")
            case "reachable again":
                self.say(f"  {said['destination']} is back", "green")


_STYLES = {"queued": "cyan", "held": "yellow", "qc": "magenta", "duplicate": "magenta", "unreadable": "red"}
_COMMAND = (sys.executable, "-m", "chartbound")


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop when all is accounted for and print the ledger.")] = False,
    folder: Annotated[Path | None, typer.Option("--dir", help="Where to keep its files; else a temporary folder.")] = None,
) -> None:
    """Play a clinic morning on simulators.

    Four instruments, an EHR that wakes up late, and every result's path as it happens. Without --once it goes on with a test
    every 15 s until Ctrl-C.
    """
    out = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    made = Path(tempfile.mkdtemp(prefix="chartbound-demo-")) if folder is None else folder
    made.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as parts:
            if folder is None:
                parts.callback(shutil.rmtree, made, ignore_errors=True)
            clinic = Clinic(made.absolute(), out, parts)
            balanced = _morning(clinic)
            if not once:
                _afternoon(clinic)
    except DemoFailed as failed:
        out.print(f"The demo failed: {failed}", style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    if once:
        out.print(f"{time.monotonic() - began:.0f} s", style="dim")
        raise typer.Exit(0 if balanced else 1)


def _morning(clinic: Clinic) -> bool:
    clinic.say(f"A clinic morning, in {clinic.folder}", "bold")
    ehr_port = _free_port()
    _write_site(clinic, ehr_port)
    labels = _register(clinic)
    saved = clinic.folder / "ehr"
    down = f"{_EHR_DOWN_SECONDS:g}"
    clinic.start("simulate", "ehr", "--listen", f"127.0.0.1:{ehr_port}", "--save", str(saved), "--down", down)
    _start_agent(clinic)

    clinic.say("\n1. HbA1c: the analyser reads the specimen's label", "bold")
    clinic.run_instrument("hba1c-1", "dca_vantage", "--specimen-id", labels["P-1001"], "--value", "HbA1c=6.1")
    _result(clinic, "hba1c-1", "queued")

    clinic.say("\n2. Urinalysis: the strip reader carries the label; its report is sent twice", "bold")
    clinic.run_instrument("urine-1", "clinitek_status", "--specimen-id", labels["P-1002"], "--fault", "duplicate")
    _result(clinic, "urine-1", "queued")
    _result(clinic, "urine-1", "duplicate")

    clinic.say("\n3. A control on the strip reader", "bold")
    clinic.run_instrument("urine-1", "clinitek_status", "--specimen-id", "CONTROL-1", "--first", "2")
    _result(clinic, "urine-1", "qc")

    clinic.say("\n4. A urinalysis whose label nobody registered", "bold")
    clinic.run_instrument("urine-1", "clinitek_status", "--specimen-id", "NOBODY-1", "--first", "3")
    _result(clinic, "urine-1", "held")

    clinic.say("\n5. Glucose: claimed with one scan, the meter docked, confirmed with one key", "bold")
    clinic.chartbound("claim", labels["P-1003"], "--instrument", "glucose-1", "--station", "room-2")
    clinic.run_instrument("glucose-1", "onetouch_ultra2", "--value", "GLU=112")
    due = _result(clinic, "glucose-1", "held")
    clinic.chartbound("confirm", due["result"])

    clinic.say("\n6. EKG: the cart drops a file that carries patient id and name", "bold")
    test = SimulatedTest(
        at=datetime.now().replace(microsecond=0),  # noqa: DTZ005 - an instrument's clock knows no zone
        patient_id="MRN-1004",
        last_name="HADDAD",
        first_name="SAMIR",
        birth_date="1957-01-22",
    )
    for _ in ekg.drop(clinic.folder / "drop" / "ekg", "tracing-1.xml", ekg.write(test, confirmed=True)):
        pass
    _result(clinic, "ekg-cart", "queued")

    clinic.say("\nWaiting for the EHR", "bold")
    for result in {line["result"] for line in clinic.lines if line.get("state") == "queued"}:
        clinic.wait_for(f"delivery of result {result}", lambda line, one=result: _is(line, "delivered", result=one))  # type: ignore[misc]
    clinic.say("")
    return _accounted_for(clinic, saved)


def _accounted_for(clinic: Clinic, saved: Path) -> bool:
    """Print the ledger; True where it balances and holds just what the morning made."""
    clinic.say(clinic.chartbound("ledger").rstrip())
    ledger = json.loads(clinic.chartbound("ledger", "--json"))
    filed = len(list(saved.glob("*.hl7")))
    clinic.say(f"The EHR has filed {filed} messages.")
    wrong = [f"{state} {ledger[state]} instead of {count}" for state, count in _EXPECTED.items() if ledger[state] != count]
    if filed != _EXPECTED["posted"]:
        wrong.append(f"the EHR filed {filed}")
    for line in wrong:
        clinic.say(f"Not as expected: {line}", "red")
    return bool(ledger["balanced"]) and not wrong


def _afternoon(clinic: Clinic) -> None:
    """Go on with a new patient's HbA1c now and then, until Ctrl-C."""
    clinic.say("\nThe clinic goes on; Ctrl-C ends it. Look around in another window:", "bold")
    clinic.say(f"  chartbound status --site {clinic.folder / 'site.toml'}")
    rng = random.Random(1)  # noqa: S311 - made-up patients
    number = 2000
    while True:
        time.sleep(8)
        number += 1
        words = (
            "--mrn",
            f"MRN-{number}",
            "--name",
            f"WALKIN,PAT{number}",
            "--birth-date",
            "1970-01-01",
            "--test",
            "4548-4=HbA1c",
        )
        said = json.loads(clinic.chartbound("specimens", "add", *words, "--order", f"P-{number}", "--json"))
        value = f"HbA1c={rng.uniform(4.8, 9.5):.1f}"
        clinic.run_instrument(
            "hba1c-1", "dca_vantage", "--specimen-id", said["specimen_id"], "--value", value, "--first", str(number)
        )


def _write_site(clinic: Clinic, ehr_port: int) -> None:
    (clinic.folder / "drop" / "ekg").mkdir(parents=True, exist_ok=True)
    ports = {name: _port(clinic, name) for name in ("glucose-1", "urine-1", "hba1c-1")}
    (clinic.folder / "site.toml").write_text(
        f"""\
[site]
facility = "RIVERSIDE"
timezone = "{_zone()}"
state_dir = "state"

[[instruments]]
name = "hba1c-1"
driver = "dca_vantage"
port = {json.dumps(ports["hba1c-1"])}

[[instruments]]
name = "urine-1"
driver = "clinitek_status"
port = {json.dumps(ports["urine-1"])}
[instruments.options]
date_order = "mdy"
control_ids = ["CONTROL-*"]

[[instruments]]
name = "glucose-1"
driver = "onetouch_ultra2"
port = {json.dumps(ports["glucose-1"])}
station = "room-2"
poll_seconds = 1

[[instruments]]
name = "ekg-cart"
driver = "ekg"
folder = "drop/ekg"

[[destinations]]
name = "ehr"
address = "127.0.0.1:{ehr_port}"
retry_seconds = [0.5, 2]
""",
        encoding="utf-8",
    )


def _port(clinic: Clinic, name: str) -> str:
    """A serial cable where the system has pseudo-terminals, a socket elsewhere."""
    if cable_available():
        cable = clinic.cables[name] = Cable()
        clinic.parts.callback(cable.unplug)
        return cable.host
    address = f"127.0.0.1:{_free_port()}"
    (clinic.folder / f"{name}.address").write_text(address, encoding="ascii")
    return f"listen://{address}"


def _address(folder: Path, name: str) -> str:
    return (folder / f"{name}.address").read_text(encoding="ascii")


def _register(clinic: Clinic) -> dict[str, str]:
    """Import the morning's orders; return the label of each order number."""
    orders = clinic.folder / "orders.csv"
    orders.write_text("\n".join((_COLUMNS, *_ORDERS)) + "\n", encoding="utf-8")
    taken = json.loads(clinic.chartbound("specimens", "import", str(orders), "--json"))["taken"]
    numbers = [row.split(",")[2] for row in _ORDERS]
    labels = {number: one["specimen_id"] for number, one in zip(numbers, taken, strict=True)}
    clinic.say(f"  {len(labels)} orders registered, labels: {', '.join(labels.values())}", "dim")
    return labels


def _start_agent(clinic: Clinic) -> None:
    clinic.agent = clinic.start("run", errors=subprocess.PIPE)
    log = clinic.agent.stderr

    def copied() -> Iterator[bytes]:
        with (clinic.folder / "agent.log").open("wb", buffering=0) as kept:
            for line in log or ():
                kept.write(line)
                yield line

    reader = threading.Thread(target=clinic.follow, args=(copied(),), name="log", daemon=True)
    reader.start()
    clinic.parts.callback(_end, clinic.agent, reader)
    clinic.wait_for("the start of the agent", lambda line: _is(line, "listening"))


def _result(clinic: Clinic, instrument: str, state: str) -> dict[str, str]:
    return clinic.wait_for(
        f"a {state} result of {instrument}", lambda line: _is(line, "result", instrument=instrument, state=state)
    )


def _is(line: dict[str, str], event: str, **said: str) -> bool:
    return line.get("event") == event and all(line.get(key) == value for key, value in said.items())


def _logfmt(line: str) -> dict[str, str]:
    """The pairs of one log line."""
    found: dict[str, str] = {}
    for word in _words(line.strip()):
        key, _, value = word.partition("=")
        found[key] = value.strip('"')
    return found


def _words(line: str) -> Sequence[str]:
    words, word, quoted = [], "", False
    for character in line:
        quoted ^= character == '"'
        if character == " " and not quoted:
            words.append(word)
            word = ""
        else:
            word += character
    return [*words, word]


def _zone() -> str:
    """A zone that has this PC's offset today: the simulated instruments show this PC's time."""
    now = datetime.now().astimezone()
    names = ["UTC", *sorted(available_timezones())]
    return next((name for name in names if now.astimezone(ZoneInfo(name)).utcoffset() == now.utcoffset()), "UTC")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "120"}


def _end(part: subprocess.Popen[bytes], reader: threading.Thread | None = None) -> None:
    if part.poll() is None:
        part.send_signal(signal.SIGTERM)
        try:
            part.wait(6)
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()
    if reader is not None:
        reader.join()
    if part.stderr:
        part.stderr.close()
