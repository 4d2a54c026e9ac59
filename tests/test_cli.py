"""The command line: what it prints for people and programs, its exit codes, and its words when something is wrong."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chartbound.agent import host
from chartbound.agent.cli import app
from chartbound.agent.journal import open_journal
from chartbound.agent.store.engine import migrate, open_store
from chartbound.drivers.driver import shipped

from .clinic import ANA, C_LABEL, GLUCOSE, HBA1C, NINE, SITE, Clinic, open_clinic, ran

RESULT_KEYS = {
    "id", "instrument", "driver", "state", "reason", "specimen_id", "placer_order", "mrn", "sample_kind", "observed_at",
    "heard_at", "evidence", "deliveries", "observations",
}  # fmt: skip
LEDGER_KEYS = {
    "heard", "received", "duplicate", "unreadable", "qc", "held", "queued", "posted", "refused", "dismissed", "superseded",
    "balanced", "incomplete", "rereads", "oldest_held_at", "oldest_queued_at",
}  # fmt: skip
ANA_WORDS = ("--name", "RIVERA,ANA", "--birth-date", "1961-03-05")


class Console:
    """The command line in a folder with a site file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = str(folder / "site.toml")

    def __call__(self, *words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    def json(self, *words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, [*words, "--json", "--site", self.site], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)


@pytest.fixture
def console(tmp_path: Path) -> Console:
    (tmp_path / "site.toml").write_text(SITE, encoding="utf-8")
    return Console(tmp_path)


@pytest.fixture
def clinic(console: Console) -> Any:
    """A clinic on the very store that the commands open."""
    (console.folder / "state").mkdir()
    engine = open_store("sqlite", console.folder / "state")
    migrate(engine)
    yield open_clinic(engine, console.folder, agent=host.agent_id(console.folder / "state"))
    engine.dispose()


def test_init_writes_a_site_file_that_check_finds_sound_and_never_overwrites_one(tmp_path: Path) -> None:
    run = Console(tmp_path)
    run("init", str(tmp_path / "new"))
    path = tmp_path / "new" / "site.toml"
    assert "[site]" in path.read_text(encoding="utf-8")
    assert "left as it is" in run("init", str(tmp_path / "new"), code=1)


def test_check_prints_every_mistake_with_its_line_and_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(
        """\
[site]
facility = "RIVERSIDE"
timezone = "America/Chicgo"
[[instruments]]
name = "one"
driver = "dca_vantag"
port = "COM4"
[[instruments]]
name = "two"
driver = "clinitek_status"
port = "listen://127.0.0.1:4002"
poll_second = 3
[instruments.options]
date_order = "mdz"
[[destinations]]
name = "ehr"
address = "127.0.0.1"
[matching]
order_window_hours = "24"
""",
        encoding="utf-8",
    )
    said = Console(tmp_path)("check", str(tmp_path / "site.toml"), code=2)
    lines = [int(line.split("site.toml:")[1].split(":")[0]) for line in said.splitlines() if "site.toml:" in line]
    assert lines == [3, 6, 12, 14, 17, 19]
    assert "6 errors" in said
    assert "dca_vantage" in said


def test_check_on_a_sound_file_shows_a_sample_message(console: Console) -> None:
    (console.folder / "drop" / "ekg").mkdir(parents=True)
    said = console("check", console.site)
    assert "MSH|" in said
    assert "conform" in said


def test_a_missing_site_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    said = Console(tmp_path)("results", "--site", str(tmp_path / "none.toml"), code=2)
    assert "none.toml" in said


def test_drivers_lists_what_can_be_connected_and_how(console: Console) -> None:
    listed = json.loads(console("drivers", "--json"))
    assert {"name", "instrument", "kind", "link", "transport", "evidence"} <= set(listed[0])
    assert {one["name"] for one in listed} >= {"contour", "clinitek_status", "dca_vantage", "ekg", "onetouch_ultra2"}
    assert "date_order" in console("drivers", "clinitek_status")
    assert "`chartbound drivers`" in console("drivers", "nothing", code=2)
    assert [one.name for one in shipped()] == [one["name"] for one in listed]


def test_specimens_are_added_imported_listed_and_cancelled_before_any_run(console: Console) -> None:
    added = console.json("specimens", "add", "--mrn", "MRN-1", *ANA_WORDS, "--test", "4548-4=HbA1c", "--order", "P-1")
    assert added["outcome"] == "added"
    listed = console.json("specimens", "list")
    assert [(one["specimen_id"], one["tests"][0]["code"]) for one in listed] == [(added["specimen_id"], "4548-4")]
    console("specimens", "cancel", added["specimen_id"], "--site", console.site)
    assert console.json("specimens", "list")[0]["cancelled"]
    assert "cancelled" in console("specimens", "cancel", added["specimen_id"], "--site", console.site, code=1)


def test_an_import_names_bad_rows_with_their_lines_takes_the_rest_and_ends_with_1(console: Console) -> None:
    from chartbound.agent.orders import COLUMNS

    path = console.folder / "orders.csv"
    rows = [",".join(COLUMNS), "S-1,,P-1,MRN-1,RIVERA,ANA,1961-03-05,F,4548-4,HbA1c,BLD,,,", "S-2,,P-2,,X,Y,bad,F,1,,,,,"]
    path.write_text("\n".join(rows), encoding="utf-8")
    said = console.json("specimens", "import", str(path), code=1)
    assert [one["specimen_id"] for one in said["taken"]] == ["S-1"]
    assert [one["line"] for one in said["problems"]] == [3]


def test_results_and_ledger_have_the_agreed_keys(console: Console, clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, HBA1C)
    clinic.run("hba1c-1", ran(specimen_id=C_LABEL))
    open_journal(console.folder / "state", clinic.verdicts.agent).close()
    [one] = console.json("results")
    assert set(one) == RESULT_KEYS
    assert set(one["deliveries"][0]) >= {"destination", "control_id", "state", "ack_code", "attempts"}
    assert set(one["observations"][0]) == {"code", "name", "loinc", "value", "comparator", "unit", "flag"}
    assert (one["observations"][0]["loinc"], one["placer_order"]) == ("4548-4", "P-1")
    assert set(console.json("ledger")) == LEDGER_KEYS
    assert console.json("results", "--state", "held") == []
    assert "no state nonsense" in console("results", "--state", "nonsense", "--site", console.site, code=2)


def test_a_claimed_glucose_is_confirmed_shown_and_undone_by_commands(console: Console, clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    with clinic.acting(NINE + timedelta(minutes=29)) as acts:
        acts.claim(C_LABEL, "glucose-1")
    [row] = clinic.run("glucose-1", ran(30, values={"GLU": "112"}))
    result_id = str(row.id)
    site = ("--site", console.site)
    assert "queued" in console("confirm", result_id, *site)
    assert "RIVERA" in console("result", result_id, *site)
    assert "confirmed" in console("undo", result_id, *site)
    assert "posted" not in console("results", *site)
    assert "queued" in console("assign", result_id, C_LABEL, *ANA_WORDS, *site)
    said = console.json("result", result_id)
    assert [act["act"] for act in said["acts"]] == ["confirmed", "undo", "assigned"]
    assert said["report"]["observations"][0]["value"] == "112"
    assert "acts, head" in console("audit", "verify", *site)
    assert "there is no result 99" in console("result", "99", *site, code=1)


def test_a_name_and_a_birth_date_are_asked_for_in_one_form(console: Console) -> None:
    said = console("assign", "1", "S-1", "--name", "ANA", "--birth-date", "1961-03-05", "--site", console.site, code=2)
    assert "LAST,FIRST" in said
    said = console("assign", "1", "S-1", "--name", "RIVERA,ANA", "--birth-date", "05/03/61", "--site", console.site, code=2)
    assert "YYYY-MM-DD" in said


def test_claims_are_made_and_ended_by_commands(console: Console, clinic: Clinic) -> None:
    clinic.register(C_LABEL, ANA, GLUCOSE)
    site = ("--site", console.site)
    assert "is being run on" in console("claim", C_LABEL, "--instrument", "glucose-1", *site)
    assert "has ended" in console("claim", "--end", "--instrument", "glucose-1", *site)
    assert "no claim is running" in console("claim", "--end", "--instrument", "glucose-1", *site, code=1)
    assert "SPECIMEN_ID --instrument" in console("claim", *site, code=2)


def test_status_without_an_agent_says_how_to_start_one_and_what_waits(console: Console, clinic: Clinic) -> None:
    clinic.run("glucose-1", ran(30, values={"GLU": "35"}))
    said = console("status", "--site", console.site)
    assert "chartbound run" in said
    assert "critical values held" in said
    listed = console.json("status")
    assert listed["agent"] is None
    assert [one["what"] for one in listed["attention"]] == ["critical values held", "held"]


def test_a_transcript_is_replayed_with_its_driver(console: Console, tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    from chartbound.drivers import transcript
    from chartbound.drivers.transcript import Heard, Transcript

    line = b"412,01-15-2026, 9:30AM,JD,12345,,,,,Multistix 10 SG,Yellow,Clear,GLU,Negative,,BIL,Negative,\r"
    options = {"date_order": "mdy"}
    path.write_text(transcript.write(Transcript((Heard(line),), "clinitek_status", options)), encoding="utf-8")
    said = console("replay", str(path))
    assert "GLU: Negative" in said
    [one] = json.loads(console("replay", str(path), "--json"))
    assert one["report"]["sequence"] == 412
    assert "it takes" in console("replay", str(path), "--option", "nothing=1", code=1)
    assert "there is no driver" in console("replay", str(path), "--driver", "none", code=1)
