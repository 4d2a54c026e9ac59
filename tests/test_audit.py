"""The audit chain shows every row that was changed, taken out, put elsewhere or cut off by one who can write the database."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from chartbound.agent import audit
from chartbound.agent.store.engine import open_store, reading, writing

AT = datetime(2026, 3, 2, 14, 5, 9, 120000, tzinfo=UTC)


def _act(conn: Connection, number: int, agent: str = "agent-1") -> None:
    detail = {"specimen": f"S-{number}", "reason": "label torn", "seen": [number, 0.5, None, True]}
    audit.append(conn, agent, "mlee", "assign", f"result {number}", detail, AT + timedelta(seconds=number))


def _write(store: Engine, count: int = 5) -> None:
    with writing(store) as conn:
        for number in range(1, count + 1):
            _act(conn, number)


def _tamper(store: Engine, *statements: str) -> None:
    """What someone with the database's password can do: take the guards away, then change rows."""
    with writing(store) as conn:
        if store.dialect.name == "postgresql":
            conn.execute(text("DROP TRIGGER audit_append_only ON audit"))
        else:
            conn.execute(text("DROP TRIGGER audit_no_update"))
            conn.execute(text("DROP TRIGGER audit_no_delete"))
        for statement in statements:
            conn.execute(text(statement))


def _problems(store: Engine, *known: audit.Head) -> list[audit.Problem]:
    with reading(store) as conn:
        return audit.verify(conn, known)


def test_an_untouched_chain_has_no_problem(store: Engine) -> None:
    assert _problems(store) == []
    _write(store)
    assert _problems(store) == []


def test_the_hash_is_that_of_the_row_and_the_one_before(store: Engine) -> None:
    """Counted by hand, from the form that the module's docstring gives."""
    with writing(store) as conn:
        audit.append(
            conn, "agent-1", "mlee", "confirm", "result 1", {"b": 1, "a": "é"}, AT.astimezone(timezone(timedelta(hours=-6)))
        )
    form = (
        r'{"act":"confirm","agent":"agent-1","at":"2026-03-02T14:05:09.120000+00:00","detail":{"a":"\u00e9","b":1},"number":1,'
        f'"previous":"{"0" * 64}","subject":"result 1","who":"mlee"}}'
    )
    with reading(store) as conn:
        assert audit.head(conn, "agent-1") == audit.Head("agent-1", 1, hashlib.sha256(form.encode()).hexdigest())
        assert audit.head(conn, "agent-2") is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'other' WHERE number = 3",
        "UPDATE audit SET act = 'release' WHERE number = 3",
        "UPDATE audit SET subject = 'result 9' WHERE number = 3",
        "UPDATE audit SET at = '2026-03-03 00:00:00' WHERE number = 3",
        """UPDATE audit SET detail = '{"reason": "none"}' WHERE number = 3""",
        "UPDATE audit SET hash = previous WHERE number = 3",
        "UPDATE audit SET previous = hash WHERE number = 3",
        "UPDATE audit SET agent = 'agent-2' WHERE number = 3",
        "DELETE FROM audit WHERE number = 1",
        "DELETE FROM audit WHERE number = 3",
        "UPDATE audit SET number = number + 100 WHERE number >= 3",
        "UPDATE audit SET id = id + 1000 WHERE number = 3",
    ],
)
def test_a_row_that_was_touched_is_found(store: Engine, statement: str) -> None:
    _write(store)
    _tamper(store, statement)
    assert _problems(store)


def test_rows_that_changed_places_are_found(store: Engine) -> None:
    _write(store)
    _tamper(
        store,
        "UPDATE audit SET number = 99 WHERE number = 2",
        "UPDATE audit SET number = 2 WHERE number = 4",
        "UPDATE audit SET number = 4 WHERE number = 99",
    )
    assert {problem.number for problem in _problems(store)} >= {2, 4}


def test_an_end_that_was_cut_off_is_found_by_the_head_kept_elsewhere(store: Engine) -> None:
    _write(store)
    with reading(store) as conn:
        kept = audit.heads(conn)
    _tamper(store, "DELETE FROM audit WHERE number > 3")
    assert _problems(store) == []
    assert [problem.number for problem in _problems(store, *kept)] == [5]


def test_a_chain_written_anew_is_found_by_the_head_kept_elsewhere(store: Engine) -> None:
    _write(store)
    with reading(store) as conn:
        kept = audit.heads(conn)
    _tamper(store, "DELETE FROM audit")
    with writing(store) as conn:
        for number in (1, 2, 7, 8, 9):
            _act(conn, number)
    assert _problems(store) == []
    assert [problem.what for problem in _problems(store, *kept)] == ["replaced: it is another row than the one kept elsewhere"]


def test_an_older_head_stays_good_while_the_chain_grows(store: Engine) -> None:
    _write(store, 2)
    with reading(store) as conn:
        kept = audit.heads(conn)
    with writing(store) as conn:
        _act(conn, 3)
    assert _problems(store, *kept) == []


def test_each_agent_has_a_chain_of_its_own(store_url: str, tmp_path: Path) -> None:
    """Two PCs write at once to one store, each with two threads."""
    engines = [open_store(store_url, tmp_path) for _ in range(2)]

    def act(engine: Engine, agent: str) -> None:
        for number in range(10):
            with writing(engine) as conn:
                _act(conn, number, agent)

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(act, engine, f"agent-{k % 2}") for k, engine in enumerate(engines * 2)]
        for job in jobs:
            job.result()
    with reading(engines[0]) as conn:
        assert [(head.agent, head.number) for head in audit.heads(conn)] == [("agent-0", 20), ("agent-1", 20)]
        assert audit.verify(conn) == []
    for engine in engines:
        engine.dispose()


def test_an_act_is_recorded_only_if_it_happens(store: Engine) -> None:
    def fail() -> None:
        with writing(store) as conn:
            _act(conn, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with reading(store) as conn:
        assert audit.heads(conn) == []


_text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(detail=st.dictionaries(_text, _json, max_size=3), who=_text, at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_whatever_was_said_verifies_when_it_comes_back(
    store: Engine, detail: dict[str, object], who: str, at: datetime
) -> None:
    with writing(store) as conn:
        audit.append(conn, "agent-1", who, "dismiss", "result 1", detail, at.replace(tzinfo=UTC))
    assert _problems(store) == []


def test_a_detail_that_is_no_json_is_refused(store: Engine) -> None:
    makers: list[Callable[[], object]] = [lambda: float("nan"), object]
    for make in makers:
        with pytest.raises((ValueError, TypeError)), writing(store) as conn:
            audit.append(conn, "agent-1", "mlee", "assign", "result 1", {"x": make()}, AT)


def test_a_chain_of_thousands_is_checked(store: Engine) -> None:
    _write(store, 1500)
    assert _problems(store) == []
    _tamper(store, "UPDATE audit SET who = 'other' WHERE number = 1201")
    assert [problem.number for problem in _problems(store)] == [1201]


def test_the_operator_is_the_systems_user_whatever_the_environment_says() -> None:
    program = "import json; from chartbound.agent.audit import operator; print(json.dumps(operator()))"
    names = []
    for spoof in ({}, {"USER": "boss", "LOGNAME": "boss", "USERNAME": "boss", "LNAME": "boss"}):
        done = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | spoof, capture_output=True, text=True, check=True
        )
        names.append(json.loads(done.stdout))
    assert names[0] == names[1] != "boss"
