"""The main job as a new user starts it: a clinic morning, every part a process of its own, and a ledger that balances."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message


@pytest.mark.timeout(180)
def test_a_clinic_morning_is_accounted_for_and_the_ehr_has_four_conformant_messages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chartbound"]
    done = subprocess.run(
        [*command, "demo", "--once", "--dir", str(tmp_path / "clinic")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Balanced: 7 heard, 7 accounted for." in done.stdout
    saved = sorted((tmp_path / "clinic" / "ehr").glob("*.hl7"))
    assert len(saved) == 4
    for path in saved:
        text = path.read_bytes().decode()
        message = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
        assert message.validate()
    patients = {str(hl7.parse(path.read_bytes().decode())["PID.F3.R1.C1"]) for path in saved}
    assert patients == {"MRN-1001", "MRN-1002", "MRN-1003", "MRN-1004"}
    log = (tmp_path / "clinic" / "agent.log").read_text(encoding="utf-8")
    assert not [name for name in ("RIVERA", "OKAFOR", "LINDQVIST", "HADDAD", "MRN-100") if name in log]
    lineage = subprocess.run(
        [*command, "result", "1", "--json", "--site", "site.toml"],
        cwd=tmp_path / "clinic",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    said = json.loads(lineage.stdout)
    assert said["state"] == "posted"
    assert "STX" in said["heard"]["wire"][2]["bytes"]
    assert said["report"]["observations"][0]["value"] == "6.1"
    assert said["evidence"]
    assert said["messages"][0]["message"].startswith("MSH|")
    assert [event["what"] for event in said["events"]] == ["settled", "attempt"]
