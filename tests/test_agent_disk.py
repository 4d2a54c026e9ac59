"""The agent on a disk that is full or closed to it: it promises nothing, says so, and goes on when there is room."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chartbound.agent.journal_file import JournalReader
from chartbound.drivers.lis1a import ACK, EOT

from .agent_process import (
    COMMAND,
    AgentProcess,
    Analyser,
    a_test,
    call,
    count,
    free_port,
    hearing_of,
    instrument,
    until,
    urine_line,
    without_roots_rights,
    write_site,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits another process's files as only Linux does")


def test_on_a_full_disk_nothing_is_promised_and_what_is_said_once_is_kept(tmp_path: Path) -> None:
    hba1c, urine = free_port(), free_port()
    write_site(tmp_path, instrument("hba1c-1", "dca_vantage", hba1c), instrument("urine-1", "clinitek_status", urine))
    with AgentProcess(tmp_path) as agent, Analyser(hba1c) as analyser, call(urine) as reader:
        analyser.report(a_test(1, "S1"))
        agent.wait_for("result")
        agent.status_when(lambda said: hearing_of(said, "hba1c-1")["units"])
        agent.fill_disk()
        analyser.begin(a_test(2, "S2"))
        for number in range(1, 301):  # far more than the system keeps for a program that does not read
            reader.sendall(urine_line(number, f"U{number}"))
        agent.wait_for("the journal cannot be written; nothing is acknowledged", 2)
        said = agent.status_when(lambda said: said["journal_trouble"] and hearing_of(said, "urine-1")["unsaved"])
        assert "full" in said["journal_trouble"]
        shown = subprocess.run([*COMMAND, "status"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "full" in shown.stdout
        assert analyser.answer_within(1.0) is None
        freed_at = datetime.now(UTC)
        agent.free_disk()
        assert analyser.answer_within(10.0) == ACK
        analyser.wire.sendall(EOT)
        agent.wait_for("result", 302)
        agent.status_when(lambda said: not said["journal_trouble"] and not hearing_of(said, "urine-1")["unsaved"])
        assert len(agent.said("the journal cannot be written; nothing is acknowledged")) == 2
        assert agent.stop() < 5
    counted = count(tmp_path)
    assert (counted.heard, counted.balanced) == (302, True)
    journal = JournalReader(tmp_path / "state" / "journal.db")
    units = [unit for number in sorted(journal.numbers()) if (unit := journal.unit(number)) and unit.instrument == "urine-1"]
    journal.close()
    assert [int(unit.data.partition(b",")[0]) for unit in units] == list(range(1, 301))
    assert units[-1].heard_at < freed_at  # when it was heard, not when there was room for it


def test_an_answer_that_would_come_too_late_is_not_given(tmp_path: Path) -> None:
    """The instrument has given up after 15 s and asks anew: it would take our late ACK for that of its new question."""
    port = free_port()
    test = a_test(2, "S2")
    write_site(tmp_path, instrument("hba1c-1", "dca_vantage", port))
    with AgentProcess(tmp_path) as agent:
        with Analyser(port) as analyser:
            analyser.report(a_test(1, "S1"))
            agent.wait_for("result")
            agent.fill_disk()
            analyser.begin(test)
            assert analyser.answer_within(11.0) is None
            agent.free_disk()
            assert analyser.answer_within(10.0) == b""
        with Analyser(port) as analyser:
            analyser.report(test)
        agent.wait_for("result", 3)
        assert agent.stop() < 5
    assert (count(tmp_path).held, count(tmp_path).duplicate, count(tmp_path).balanced) == (2, 1, True)


def test_a_stop_on_a_full_disk_takes_less_than_five_seconds_and_says_what_it_costs(tmp_path: Path) -> None:
    port = free_port()
    write_site(tmp_path, instrument("urine-1", "clinitek_status", port))
    with AgentProcess(tmp_path) as agent, call(port) as reader:
        reader.sendall(urine_line(1))
        agent.wait_for("result")
        agent.fill_disk()
        reader.sendall(urine_line(2))
        agent.wait_for("the journal cannot be written; nothing is acknowledged")
        assert agent.stop() < 5
        assert agent.said("stopped with something heard that the disk did not take")
        assert not agent.said("a part of the agent failed and is started again")


_FULL_STORE = """
import sqlite3, sqlite3.dbapi2, sys
from pathlib import Path

class Full(sqlite3.Connection):
    def cursor(self, *args):
        if not self.in_transaction:
            full = Path("store-is-full").exists()
            self.execute(f"PRAGMA max_page_count = {1 if full else 1 << 30}")
        return super().cursor(*args)

real = sqlite3.connect

def connect(database, *args, **more):
    if str(database).endswith("chartbound.db"):
        more["factory"] = Full
    return real(database, *args, **more)

sqlite3.connect = sqlite3.dbapi2.connect = connect
from chartbound.__main__ import main
sys.argv = ["chartbound", *sys.argv[-2:]]
main()
"""


def test_a_store_without_room_is_caught_up_with_while_the_instruments_are_heard(tmp_path: Path) -> None:
    hba1c, urine = free_port(), free_port()
    write_site(tmp_path, instrument("hba1c-1", "dca_vantage", hba1c), instrument("urine-1", "clinitek_status", urine))
    (tmp_path / "launch.py").write_text(_FULL_STORE)
    with AgentProcess(tmp_path, [sys.executable, str(tmp_path / "launch.py")]) as agent:
        with Analyser(hba1c) as analyser:
            analyser.report(a_test(1, "S1"))
            agent.wait_for("result")
            (tmp_path / "store-is-full").touch()
            for number in range(2, 40):
                analyser.report(a_test(number, f"S{number}"))
        agent.wait_for("the store cannot be written; listening goes on")
        assert "full" in agent.status_when(lambda said: said["store_away"])["store_away"]
        (tmp_path / "store-is-full").unlink()
        agent.wait_for("the store is back")
        agent.status_when(lambda said: not said["store_away"])
        assert until(lambda: count(tmp_path).held == 39)
        assert len(agent.said("the store cannot be written; listening goes on")) == 1
        assert agent.stop() < 5
    assert (count(tmp_path).heard, count(tmp_path).balanced) == (39, True)


def test_a_state_folder_that_may_not_be_written_is_named_at_the_start() -> None:
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer)
        write_site(folder, instrument("urine-1", "clinitek_status", free_port()))
        (folder / "state").mkdir()
        (folder / "state").chmod(0o500)
        done = subprocess.run(
            [*without_roots_rights(), *COMMAND, "run", "site.toml"], cwd=folder, capture_output=True, text=True, check=False
        )
        (folder / "state").chmod(0o700)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(folder / "state") in done.stderr
    assert "ermission" in done.stderr
