"""The agent is killed with SIGKILL again and again: nothing that it acknowledged is lost, doubled or changed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("the campaign forks its agents", allow_module_level=True)

from .crash.campaign import Campaign

NEVER = 10**9


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_every_moment_lose_double_and_change_nothing(tmp_path: Path, seed: int) -> None:
    """Random moments, commits of journal and store, after the ACK of an L; with backups put back in between."""
    with Campaign(tmp_path, seed=seed, kills=14) as clinic:
        clinic.run()
        wrong = clinic.account()
        sys.stdout.write("\n".join(["", *clinic.report(), ""]))
    assert not wrong


def test_a_result_whose_l_was_acknowledged_is_filed_though_the_agent_was_killed_before_its_eot(tmp_path: Path) -> None:
    with Campaign(tmp_path, seed=3, misbehaving=False, dies_one_in=NEVER) as clinic:
        clinic.register()
        clinic.start()
        clinic.hand_out(2)
        assert clinic.kill_at_l(20)
        said = [one for dca in clinic.dcas for one in dca.said]
        assert [(one.state, one.sent) for one in said] == [("promised", 1)]
        assert not clinic.account()
        assert said[0].sent == 1  # nobody said it again


def test_a_line_that_dies_in_patient_2_gives_patient_1_and_shows_the_rest_as_incomplete(tmp_path: Path) -> None:
    with Campaign(tmp_path, seed=4, misbehaving=False, dies_one_in=1) as clinic:
        clinic.register()
        clinic.start()
        clinic.hand_out(40)
        assert not clinic.account()
        dead = sum(dca.given_up for dca in clinic.dcas)
        assert clinic.counts["ledger: incomplete"] == dead > 0


def test_a_store_from_yesterday_gets_every_unit_again_and_the_ehr_gets_the_same_messages(tmp_path: Path) -> None:
    """The journal is today's: whatever it holds that yesterday's store has not settled is done again."""
    with Campaign(tmp_path, seed=5, misbehaving=False, dies_one_in=NEVER) as clinic:
        clinic.register()
        clinic.start()
        clinic.post(10)
        kept = clinic.back_up()
        clinic.post(20)
        clinic.stop()
        clinic.restore(kept, "chartbound.db")
        assert not clinic.account()
        assert clinic.counts["of them the same message again"] >= 20
        assert len(clinic.ehr.messages) == 30


def test_after_a_whole_restore_the_unsettled_are_built_again_as_the_same_messages(tmp_path: Path) -> None:
    """The disk was replaced. What only the lost journal had is in the EHR alone; no new result gets an old control id."""
    with Campaign(tmp_path, seed=6, misbehaving=False, dies_one_in=NEVER) as clinic:
        clinic.register()
        clinic.start()
        clinic.post(8)
        kept = clinic.back_up(between=lambda: clinic.post(10))
        lost = clinic.post(9)
        clinic.stop()
        shutil.rmtree(clinic.state)
        clinic.state.mkdir()
        shutil.copy(kept / "agent-id", clinic.state)
        clinic.restore(kept, "chartbound.db", "journal.db")
        clinic.start()
        assert clinic.ehr.wait_for(lambda ehr: ehr.duplicates >= 10, 30)
        clinic.post(7)
        wrong = clinic.account()
    assert not clinic.ehr.mismatches
    assert len(clinic.ehr.messages) == 8 + 10 + 9 + 7
    assert len(wrong) == len(lost)
    assert all(any(label in problem and "in the store 0 times" in problem for problem in wrong) for label in lost)
