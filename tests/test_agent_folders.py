"""Files dropped into the running agent's folders: good ones taken once, bad ones put aside and said with what to do."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from chartbound.simulators import ekg
from chartbound.simulators.ekg import Drop

from .agent_process import (
    AgentProcess,
    a_test,
    count,
    ekg_cart,
    free_port,
    instrument,
    results,
    until,
    without_roots_rights,
    write_site,
)

_BOMB = b"""<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">%b]>
<restingecgdata xmlns="http://www3.medical.philips.com">&z;</restingecgdata>""" % b"".join(
    b'<!ENTITY %c "%b">' % (98 + number, b"&%c;" % (97 + number) * 10) for number in range(9)
)
_ORDERS = (
    "specimen_id,accession,placer_order,mrn,last_name,first_name,birth_date,sex,test_code,test_name,"
    "specimen_type,collected_at,collector,reference_lab"
)


def _file(sequence: int) -> bytes:
    return ekg.write(a_test(sequence), confirmed=True)


def _is_in(folder: Path, *names: str) -> bool:
    return folder.is_dir() and set(names) <= {path.name for path in folder.iterdir()}


@pytest.mark.skipif(os.name == "nt", reason="file modes of POSIX")
def test_good_files_are_taken_and_bad_ones_are_put_aside_with_a_reason() -> None:
    """Half written, without rights, empty, an XML bomb, another maker's form, and noise."""
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer)
        drop = folder / "drop" / "ekg"
        drop.mkdir(parents=True)
        write_site(folder, ekg_cart())
        locked = drop / "locked.xml"
        locked.write_bytes(_file(1))
        locked.chmod(0)
        (drop / "empty.xml").touch()
        with AgentProcess(folder, without_roots_rights()) as agent:
            steps = ekg.drop(drop, "half.xml", _file(2), Drop.HALF_FIRST)
            next(steps)
            for name, data in {
                "bomb.xml": _BOMB,
                "other.xml": b"<html><body>DOE, JANE</body></html>",
                "paper.pdf": b"%PDF-1.7 DOE, JANE\n%%EOF",
                "whole.xml": _file(3),
            }.items():
                (drop / name).write_bytes(data)
            agent.wait_for("result", 3, state="unreadable", instrument="ekg-cart")
            assert until(lambda: _is_in(drop / "failed", "bomb.xml", "other.xml", "paper.pdf"))
            assert until(lambda: _is_in(drop / "done", "whole.xml"))
            assert (drop / "half.xml").exists()
            next(steps)
            for _ in steps:
                pass
            assert until(lambda: _is_in(drop / "done", "half.xml"))
            told = agent.wait_for("trouble with a folder", what="locked")
            assert "right to read" in told["detail"]
            locked.chmod(0o600)
            locked.write_bytes(_file(1))  # written anew, so that it is looked at at once and not at the next of its turns
            assert until(lambda: _is_in(drop / "done", "locked.xml"))
            details = " ".join(line["detail"] for line in agent.said("trouble with a folder", what="unwanted"))
            assert "declares entities" in details
            assert "GE MUSE" in details or "no EKG" in details
            assert "DOE" not in agent.text.decode()
            assert agent.stop() < 5
        assert (drop / "empty.xml").exists()
        why = [one for one in results(folder) if one["state"] == "unreadable"]
        assert len(why) == 3
        assert (count(folder).heard, count(folder).balanced) == (6, True)


def test_in_copy_mode_files_stay_and_are_taken_once_over_restarts(tmp_path: Path) -> None:
    drop = tmp_path / "drop" / "ekg"
    drop.mkdir(parents=True)
    write_site(tmp_path, ekg_cart(mode="copy"))
    for number in range(1, 4):
        (drop / f"{number}.xml").write_bytes(_file(number))
    with AgentProcess(tmp_path) as agent:
        agent.wait_for("result", 3)
        agent.stop()
    (drop / "4.xml").write_bytes(_file(4))
    with AgentProcess(tmp_path) as agent:
        agent.wait_for("result", 1)
        agent.stop()
    assert _is_in(drop, *(f"{number}.xml" for number in range(1, 5)))
    assert (count(tmp_path).heard, count(tmp_path).duplicate) == (4, 0)


def test_a_folder_that_is_away_is_said_and_used_when_it_is_there(tmp_path: Path) -> None:
    write_site(tmp_path, ekg_cart("away/ekg"), instrument("urine-1", "clinitek_status", free_port()))
    with AgentProcess(tmp_path) as agent:
        assert "is it there" in agent.wait_for("trouble with a folder", what="folder_away")["detail"]
        (tmp_path / "away" / "ekg").mkdir(parents=True)
        (tmp_path / "away" / "ekg" / "1.xml").write_bytes(_file(1))
        agent.wait_for("result")
        agent.status_when(lambda said: not said["folders"]["ekg-cart"])
        assert len(agent.said("trouble with a folder")) == 1
        agent.stop()


def test_an_order_files_good_rows_are_taken_and_its_bad_ones_named_by_line(tmp_path: Path) -> None:
    drop = tmp_path / "drop" / "orders"
    drop.mkdir(parents=True)
    write_site(tmp_path, instrument("urine-1", "clinitek_status", free_port()), '[orders]\nfolder = "drop/orders"\n')
    good = "S-{0},,P-{0},MRN-77{0},DOE,JANE,1970-01-01,F,24357-6,Urinalysis,UR,,,"
    rows = [_ORDERS, good.format(1), good.format(2).replace("1970-01-01", "01/02/1970"), good.format(3), "S-4,too,short"]
    with AgentProcess(tmp_path) as agent:
        (drop / "orders.csv").write_text("\n".join(rows), encoding="utf-8")
        (drop / "columns.csv").write_text("specimen_id,mrn,last_name\nS-9,MRN-779,DOE\n", encoding="utf-8")
        (drop / "latin.csv").write_bytes("\n".join([_ORDERS, good.format(5).replace("DOE", "DÖE")]).encode("latin-1"))
        agent.wait_for("orders taken", specimens="2", not_taken="2", lines="3, 5")
        assert until(lambda: _is_in(drop / "done", "orders.csv"))
        assert until(lambda: _is_in(drop / "failed", "columns.csv", "latin.csv"))
        lines = {line["line"]: line for line in agent.said("a row of an order file was not taken")}
        assert {"3", "5"} <= set(lines)
        assert "YYYY-MM-DD" in lines["3"]["hint"]
        details = [line["detail"] for line in agent.said("trouble with a folder", what="unwanted")]
        assert len(details) == 2
        assert any("lacks accession" in one for one in details), details
        assert any("UTF-8" in one for one in details)
        for word in ("DOE", "JANE", "MRN-77", "S-4", "01/02/1970"):
            assert word not in agent.text.decode()
        assert agent.stop() < 5


def test_an_order_file_of_many_bad_rows_does_not_flood_the_log(tmp_path: Path) -> None:
    drop = tmp_path / "drop" / "orders"
    drop.mkdir(parents=True)
    write_site(tmp_path, instrument("urine-1", "clinitek_status", free_port()), '[orders]\nfolder = "drop/orders"\n')
    with AgentProcess(tmp_path) as agent:
        (drop / "bad.csv").write_text("\n".join([_ORDERS, *["S,,P,,DOE,J,1970-01-01,F,1,,,,,"] * 5000]), encoding="utf-8")
        began = time.monotonic()
        assert until(lambda: _is_in(drop / "failed", "bad.csv"))
        assert time.monotonic() - began < 20
        agent.stop()
    assert len(agent.lines) < 40
    assert len(agent.text) < 20_000
