"""A clinic whose agent is killed again and again, while instruments send and the EHR answers badly.

    with Campaign(folder, seed=1) as clinic:
        clinic.run()
        problems = clinic.account()        # [] where nothing is lost, doubled or changed

The agent dies at random moments, at a chosen commit of the journal or of the store (just before it, just after it), and
between the ACK of an L and its EOT. Killing a process loses what it had in memory; what the system has taken stays. So this
shows nothing about a power cut.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import shutil
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from chartbound.agent.journal import mark_restored
from chartbound.simulators import instrument as simulated
from chartbound.simulators.ehr import EhrSimulator
from chartbound.simulators.onetouch_ultra2 import SIMULATOR as METER
from chartbound.simulators.peer import SimulatedTest

from .account import GLUCOSE, problems
from .agents import Fault, Launcher, Process
from .senders import Clinitek, Dca, Instrument, local_time, until

# What the EHR does while it misbehaves: half of it AA, for else the queue only grows.
_MIXTURE = ("AA",) * 8 + ("late", "none", "hangup", "AE", "wrong-id", "pieces", "double", "close", "garbage", "no-trailer")
_MOST_ERRORS = 2  # AE for one message; after four a person must look, which is another test's matter
_COLUMNS = (
    "specimen_id,accession,placer_order,mrn,last_name,first_name,birth_date,sex,test_code,test_name,"
    "specimen_type,collected_at,collector,reference_lab"
)
_DCAS = ("hba1c-1", "hba1c-2", "hba1c-3")
_URINE, _GLUCOSE = "urine-1", GLUCOSE
_LABELS_A_KILL = 8
_READING_EVERY = 0.4  # seconds between two readings of the meter
_STORE, _JOURNAL = "chartbound.db", "journal.db"


class Campaign:
    """The clinic. One seed gives the same choices; the threads' and processes' own timing differs each time."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        kills: int = 0,
        misbehaving: bool = True,
        dies_one_in: int = 8,
    ) -> None:
        """`kills`: how many `run` makes, beside those of the newborn; as many specimens are registered as that needs."""
        self.folder, self.state = folder, folder / "state"
        self.kills = kills
        self.counts: Counter[str] = Counter()
        self._rng = random.Random(f"{seed} kills")
        self._ehr_rng = random.Random(f"{seed} ehr")
        self._parts = contextlib.ExitStack()
        self._ports = {name: free_port() for name in (*_DCAS, _URINE, _GLUCOSE)}
        self.misbehaving = misbehaving
        self.ehr = EhrSimulator(("127.0.0.1", free_port()), self._behave, late_seconds=0.5)
        self._blood: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._urine: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._at_l = threading.Event()  # set: the next L that is acknowledged kills the agent
        self._killed_at_l = threading.Event()
        self.agent: Process | None = None
        self.dcas = [
            Dca(name, self._ports[name], self._blood, f"{seed} {name}", at_l=self._l_acknowledged, dies_one_in=dies_one_in)
            for name in _DCAS
        ]
        self.urine = Clinitek(_URINE, self._ports[_URINE], self._urine, f"{seed} {_URINE}")
        begun = local_time().replace(microsecond=0) + timedelta(minutes=1)
        self.readings = [
            SimulatedTest(at=begun + timedelta(seconds=number), values={"GLU": str(70 + number)}, sequence=number)
            for number in range(min(kills // 2, 400))
        ]
        self._specimens = (kills + 10) * _LABELS_A_KILL
        self.mrn_of: dict[str, str] = {}  # by label
        self._labels: list[str] = []
        self._next = 0  # the label that is handed out next
        self._stop_meter = threading.Event()

    @property
    def instruments(self) -> list[Instrument]:
        return [*self.dcas, self.urine]

    def __enter__(self) -> Campaign:
        write_site(self.folder, self._ports, self.ehr.address[1])
        self.launcher = self._parts.enter_context(Launcher(self.folder))
        self._parts.enter_context(self.ehr)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_meter.set()
        for one in self.instruments:
            one.stopping.set()
        if self.agent is not None:
            self.agent.kill()
        for one in self.instruments:
            if one.ident is not None:
                one.join()
        self._parts.close()

    def run(self, told: Callable[[int], None] = lambda _kills: None) -> None:
        """All kills. Between them the store alone comes back from a backup, and later the store and the journal.

        `told` is called after each kill with their number so far.
        """
        self.kill_newborn()
        self.register()
        kept = self.folder
        for number in range(1, self.kills + 1):
            if number == self.kills // 3:
                kept = self._back_up_while_it_runs()
            self.kill()
            if number == self.kills // 2:
                self.restore(kept, _STORE)
            elif number == self.kills * 3 // 4:
                self.restore(kept, _STORE, _JOURNAL)
            told(number)

    def kill_newborn(self) -> None:
        """Kill agents at the commits with which they make journal and store, each in a folder that is new."""
        for file, number in ((_JOURNAL, 1), (_STORE, 1), (_STORE, 2)):
            for when in ("before", "after"):
                shutil.rmtree(self.state, ignore_errors=True)
                self.start((file, when, number))
                self._await_death((file, when, number), 2.0)

    def register(self) -> None:
        """Register the specimens, three to a patient, under labels of ours; and let the instruments begin."""
        rows = [f",,P-{n},MRN-{n // 3},PATIENT{n // 3},ANN,1961-03-05,F,{self._ordered(n)},,," for n in range(self._specimens)]
        orders = self.folder / "orders.csv"
        orders.write_text("\n".join((_COLUMNS, *rows)) + "\n", "utf-8")
        taken = self.launcher.command("specimens", "import", str(orders))["taken"]
        self._labels = [one["specimen_id"] for one in taken]
        self.mrn_of = {label: f"MRN-{n // 3}" for n, label in enumerate(self._labels)}
        for one in self.instruments:
            one.start()
        meter = threading.Thread(target=self._run_meter, name=_GLUCOSE, daemon=True)
        meter.start()
        self._parts.callback(meter.join)
        self._parts.callback(self._stop_meter.set)

    def hand_out(self, count: int) -> None:
        """Give the instruments so many more specimens to run."""
        for label in self._labels[self._next : self._next + count]:
            (self._urine if self._is_urine(self._next) else self._blood).put(label)
            self._next += 1

    def post(self, count: int) -> list[str]:
        """Have so many more blood specimens run, wait until the EHR has filed the results, and return their labels."""
        wanted: list[str] = []
        while len(wanted) < count:
            if not self._is_urine(self._next):  # whose analyser may speak to a host that is gone
                wanted.append(self._labels[self._next])
                self._blood.put(wanted[-1])
            self._next += 1
        due = len(self.ehr.messages) + count
        assert self.ehr.wait_for(lambda ehr: len(ehr.messages) >= due, 30.0), "the EHR did not get them"
        return wanted

    def start(self, fault: Fault | None = None) -> None:
        self.agent = self.launcher.run_agent(fault)

    def kill(self) -> None:
        """Let the agent run, with work to do, until it dies."""
        self.hand_out(_LABELS_A_KILL)
        rng = self._rng
        way = rng.choices(("moment", "commit", "at L"), (3, 6, 1))[0]
        if way == "commit":
            most = rng.choice((5, 40))  # in the first moments after a start, and later
            fault = (rng.choice((_JOURNAL, _STORE)), rng.choice(("before", "after")), rng.randint(1, most))
            self.start(fault)
            self._await_death(fault, 2.0)
        elif way == "at L":
            self.start()
            self.kill_at_l(1.0)
        else:
            self.start()
            self._running.wait(rng.uniform(0, 1.5))
            self._kill_now()
        if rng.random() < 0.2:
            self.ehr.stop()
            self.ehr.start()
            self.counts["restarts of the EHR"] += 1

    def kill_at_l(self, seconds: float) -> bool:
        """Kill the agent between the ACK of the next L and its EOT; at the latest after so many seconds."""
        self._killed_at_l.clear()
        self._at_l.set()
        if self._killed_at_l.wait(seconds):
            self.counts["kills between the ACK of L and EOT"] += 1
            return True
        self._at_l.clear()
        self._kill_now()
        return False

    def _await_death(self, fault: Fault, seconds: float) -> None:
        if self._running.wait(seconds) is None:
            self._kill_now()
        else:
            self.counts[f"kills {fault[1]} a commit of {fault[0]}"] += 1

    def _kill_now(self) -> None:
        self._running.kill()
        self.counts["kills at a random moment"] += 1

    @property
    def _running(self) -> Process:
        assert self.agent is not None
        return self.agent

    def start_if_needed(self) -> None:
        if self.agent is None or self.agent.wait(0) is not None:
            self.start()

    def _back_up_while_it_runs(self) -> Path:
        self.start()
        self._running.wait(0.5)
        kept = self.back_up()
        self._kill_now()
        return kept

    def back_up(self, between: Callable[[], object] = lambda: None) -> Path:
        """A consistent copy of the state, made while the agent runs: the store first, then the journal."""
        kept = self.folder / "backup"
        kept.mkdir(exist_ok=True)
        for name in (_STORE, _JOURNAL):
            if name == _JOURNAL:
                between()
            with (
                contextlib.closing(sqlite3.connect(self.state / name)) as live,
                contextlib.closing(sqlite3.connect(kept / name)) as copy,
            ):
                live.backup(copy)
        shutil.copy(self.state / "agent-id", kept)
        return kept

    def restore(self, kept: Path, *names: str) -> None:
        """Put these files of the backup in place, with no agent running. With the journal among them it is a whole restore."""
        if _JOURNAL in names:
            mark_restored(self.state)
        for name in names:
            for suffix in ("-wal", "-shm"):
                (self.state / (name + suffix)).unlink(missing_ok=True)
            shutil.copy(kept / name, self.state / name)
        self.counts["restores of " + " and ".join(names)] += 1

    def drain(self, seconds: float) -> None:
        """Let everybody behave until all is said, heard and filed; then stop the agent as a service manager does."""
        self.misbehaving = False
        self.start_if_needed()
        for one in self.instruments:
            one.closing.set()
        for one in self.instruments:
            one.join(seconds)
            assert not one.is_alive(), f"{one.name} cannot get its results out"
        self.urine.send_all()
        assert until(self._meter_read, seconds, every=0.2), "the meter was not read to its end"
        assert until(self._settled, seconds, every=0.2), "the outbox does not drain"
        self.stop()

    def stop(self) -> None:
        """End the agent as a service manager does."""
        assert self._running.stop() == 0, "the agent does not stop when it is told"

    def report(self) -> list[str]:
        """The counts, a line each; first the kills in all."""
        kills = sum(count for what, count in self.counts.items() if what.startswith("kills"))
        rows = {"kills in all": kills, **self.counts}
        rows |= {f"arrivals answered {name}": n for name, n in sorted(Counter(a.behaviour for a in self.ehr.arrivals).items())}
        return [f"{count:7,} {what}" for what, count in rows.items()]

    def account(self, seconds: float = 60.0) -> list[str]:
        """What is wrong, by the instruments' own lists, the EHR's files and the ledger, once all is said and filed."""
        self.drain(seconds)
        ledger = self.launcher.command("ledger")
        return problems(self, ledger)

    def _settled(self) -> bool:
        """Nothing waits: read with SQLite alone, while the agent runs."""
        with contextlib.closing(sqlite3.connect(self.state / _STORE, timeout=10)) as store:
            unsettled = 0
            for path in self.state.glob("journal*.db"):
                with contextlib.closing(sqlite3.connect(path, timeout=10)) as journal:
                    [(own_id,)] = journal.execute("SELECT value FROM meta WHERE key = 'id'")
                    heard = {number for (number,) in journal.execute("SELECT number FROM unit")}
                known = {number for (number,) in store.execute("SELECT number FROM unit WHERE journal = ?", (own_id,))}
                unsettled += len(heard - known)
            # Only now: a unit that was settled since the first look has its message in the outbox by this one.
            [(waiting,)] = store.execute("SELECT count(*) FROM delivery WHERE state IN ('queued', 'unanswered')")
        return not waiting and not unsettled

    def _behave(self, _control_id: str, before: int) -> str:
        if not self.misbehaving:
            return "AA"
        choice = self._ehr_rng.choice(_MIXTURE)
        return "AA" if choice == "AE" and before >= _MOST_ERRORS else choice

    def _l_acknowledged(self) -> None:
        if self._at_l.is_set():
            self._at_l.clear()
            self._running.kill()
            self._killed_at_l.set()

    def _meter_read(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.state / _STORE, timeout=10)) as store:
            [(known,)] = store.execute("SELECT count(DISTINCT identity) FROM report WHERE instrument = ?", (_GLUCOSE,))
        return int(known) >= len(self.readings)

    def _run_meter(self) -> None:
        simulated.run(
            METER,
            f"socket://127.0.0.1:{self._ports[_GLUCOSE]}",
            self.readings,
            clock=local_time(),
            keep=True,
            every=_READING_EVERY,
            stop=self._stop_meter,
        )

    @staticmethod
    def _is_urine(number: int) -> bool:
        return number % _LABELS_A_KILL == 0

    def _ordered(self, number: int) -> str:
        return "24357-6,Urinalysis,UR" if self._is_urine(number) else "4548-4,HbA1c,BLD"


def write_site(folder: Path, ports: dict[str, int], ehr: int) -> None:
    """The site file: every instrument calls us over TCP, and an EHR that answers late is given up after 0.3 s."""
    drivers = {_URINE: "clinitek_status", _GLUCOSE: "onetouch_ultra2"}
    tables = []
    for name, port in ports.items():
        extra = {_URINE: '[instruments.options]\ndate_order = "mdy"', _GLUCOSE: "poll_seconds = 0.2"}.get(name, "")
        driver = drivers.get(name, "dca_vantage")
        tables.append(f'[[instruments]]\nname = "{name}"\ndriver = "{driver}"\nport = "listen://127.0.0.1:{port}"\n{extra}\n')
    (folder / "site.toml").write_text(
        '[site]\nfacility = "RIVERSIDE"\ntimezone = "UTC"\nstate_dir = "state"\n\n'
        + "\n".join(tables)
        + f'\n[[destinations]]\nname = "ehr"\naddress = "127.0.0.1:{ehr}"\n'
        + "ack_timeout_seconds = 0.3\nretry_seconds = [0.05, 0.3]\n",
        "utf-8",
    )


def free_port() -> int:
    """A port that is free now, below those that the system hands out: whoever calls one of those can reach itself."""
    rng = random.Random(os.urandom(8))
    while True:
        port = rng.randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
