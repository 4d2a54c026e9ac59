"""The agent's log holds no patient: a busy mix of good and bad, and then every word of it is looked for in the log."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from chartbound.drivers.lis1a import ENQ, frames
from chartbound.hl7.chart import Patient
from chartbound.simulators import dca_vantage, ekg
from chartbound.simulators.ehr import EhrSimulator

from .agent_process import (
    HBA1C,
    URINE,
    AgentProcess,
    Analyser,
    a_label,
    a_test,
    call,
    count,
    ekg_cart,
    free_port,
    instrument,
    register,
    until,
    urine_line,
    write_site,
)

_WORDS = (
    "ZWICKYNAME", "FRITZFIRST", "MRNQ90210", "1961-03-05", "19610305", "13.37", "ORDERQ777", "OPERQ55", "FREMDQ31", "1.0345",
)  # fmt: skip
_PATIENT = Patient("MRNQ90210", "ZWICKYNAME", "FRITZFIRST", date(1961, 3, 5), "F")
_SITE_DRIVER = """
from dataclasses import replace
from chartbound.drivers.clinitek_status import DRIVER as CLINITEK

def parse(unit, options):
    raise ValueError(unit.decode())

DRIVER = replace(CLINITEK, name="broken", parse=parse)
"""


def test_the_log_of_a_busy_day_holds_no_patient(tmp_path: Path) -> None:
    hba1c, urine, broken = (free_port() for _ in range(3))
    labels = [a_label(number) for number in range(1, 7)]
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "broken.py").write_text(_SITE_DRIVER)
    (tmp_path / "drop" / "ekg").mkdir(parents=True)
    (tmp_path / "drop" / "orders").mkdir()
    with EhrSimulator(behaviour=("AA", "AE", "AR", "wrong-id", "garbage", "hangup")) as ehr:
        write_site(
            tmp_path,
            instrument("hba1c-1", "dca_vantage", hba1c),
            instrument("urine-1", "clinitek_status", urine),
            instrument("broken-1", "broken", broken, '[instruments.options]\ndate_order = "mdy"\n'),
            ekg_cart(),
            '[orders]\nfolder = "drop/orders"\n',
            ehr=f"127.0.0.1:{ehr.address[1]}",
            top='drivers_folder = "drivers"',
        )
        register(tmp_path, *((one, _PATIENT, HBA1C if number < 5 else URINE) for number, one in enumerate(labels)))
        with AgentProcess(tmp_path) as agent, Analyser(hba1c) as analyser, call(urine) as strip, call(broken) as own:
            said: dict[str, Any] = {"last_name": "ZWICKYNAME", "first_name": "FRITZFIRST", "operator": "OPERQ55"}
            for number, one in enumerate([*labels[:5], "FREMDQ31"], 1):
                analyser.report(replace(a_test(number, one, HbA1c="13.37"), **said))
            analyser.report(replace(a_test(8, labels[0], HbA1c="ZWICKYNAME"), **said))
            analyser.ask(ENQ)
            for data in frames(dca_vantage.message(replace(a_test(9, "FREMDQ31"), **said), a_test(9).at))[:-1]:
                analyser.ask(data)
            analyser.wire.close()  # in mid-message
            for line in (
                urine_line(1, labels[5], SG="1.0345"),
                urine_line(2, "FREMDQ31,ZWICKYNAME", SG="1.0345"),
                b"ZWICKYNAME,FRITZFIRST\r",
                b"12,ZWICKYNAME\x01\r",
                b"13,ZWICKYNAME," + b"9" * 40_000 + b"\r",
            ):
                strip.sendall(line)
                own.sendall(line)
            tracing = replace(a_test(1), patient_id="MRNQ90210", birth_date="1961-03-05", **said)
            (tmp_path / "drop" / "ekg" / "ZWICKYNAME.xml").write_bytes(ekg.write(tracing, confirmed=True))
            (tmp_path / "drop" / "ekg" / "FRITZFIRST.xml").write_bytes(b"<ZWICKYNAME>FRITZFIRST</ZWICKYNAME>")
            row = "FREMDQ31,,ORDERQ777,MRNQ90210,ZWICKYNAME,FRITZFIRST,{},F,4548-4,HbA1c,BLD,{},,"
            heading = (
                "specimen_id,accession,placer_order,mrn,last_name,first_name,birth_date,sex,test_code,test_name,"
                "specimen_type,collected_at,collector,reference_lab"
            )
            rows = [heading, row.format("ZWICKYNAME", ""), row.format("1961-03-05", "FRITZFIRST"), row.format("1961-03-05", "")]
            (tmp_path / "drop" / "orders" / "ZWICKYNAME.csv").write_text("\n".join(rows))
            (tmp_path / "drop" / "orders" / "FRITZFIRST.csv").write_text(f"ZWICKYNAME,{heading}\nMRNQ90210")
            agent.wait_for("orders taken", 2)
            assert until((tmp_path / "drop" / "ekg" / "failed" / "FRITZFIRST.xml").exists), agent.text.decode()
            agent.wait_for("result", instrument="ekg-cart", state="held")
            agent.wait_for("a driver failed")
            agent.wait_for("a transmission did not complete", instrument="hba1c-1")
            agent.wait_for("result", instrument="urine-1", state="unreadable")
            assert until(lambda: len(ehr.messages) >= 3), agent.text.decode()
            assert agent.stop() < 5
            text = re.sub(r"timestamp=\S+", "", agent.text.decode())  # its seconds might look like a value
        status = [path.read_text() for path in (tmp_path / "state").glob("status*")]
    assert count(tmp_path).balanced
    for word in (*_WORDS, *labels):
        assert word not in text
        assert not any(word in one for one in status)
    assert "Traceback" not in text
