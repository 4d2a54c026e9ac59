"""Every new shape of message is judged by hl7apy before the first of it is queued, and the judgement is remembered."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from ..hl7 import conformance
from .store.schema import shape

_known: dict[str, str] = {}  # a judgement depends on the shape alone, so it may outlive a transaction that is rolled back


def problem(conn: Connection, messages: Iterable[bytes]) -> str:
    """What is wrong with the first of these messages that does not conform; "" where all do."""
    for message in messages:
        key = conformance.shape(message)
        if key not in _known:
            _known[key] = _judged(conn, key, message)
        if _known[key]:
            return _known[key]
    return ""


def _judged(conn: Connection, key: str, message: bytes) -> str:
    remembered = conn.execute(select(shape.c.problem).where(shape.c.key == key)).scalar()
    if remembered is not None:
        return str(remembered)
    found = conformance.validate(message)
    conn.execute(insert(shape).values(key=key, found_at=datetime.now(UTC), problem=found))
    return found
