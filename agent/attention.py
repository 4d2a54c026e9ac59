"""What waits for a person: held criticals, contradicted charts, refusals, holds, gaps in an instrument's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from . import host
from .store import deliveries, results
from .store.engine import StoreUnavailable, migrate, open_store, reading

if TYPE_CHECKING:
    from ..config.site import Site

_RECENT = timedelta(days=7)
_ROUND = timedelta(days=2)  # out of order, numbers come within this; far longer lies between two rounds of a counter
_LATE = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Attention:
    """Something that a person should look at: what, how many, since when, and what to do."""

    what: str
    count: int
    since: datetime | None
    hint: str


def attention(conn: Connection, now: datetime) -> list[Attention]:
    """What waits for a person, the gravest first."""
    since = now - _RECENT
    found = [
        _state(conn, "critical values held", "held", "`chartbound results --state held`", critical=True),
        _alarms(conn, "charted results contradicted", "contradicted", since, "the instrument has since stated another"),
        _alarms(conn, "accepted after they were withdrawn", "overtaken", since, "a retraction goes out by itself"),
        _state(conn, "refused by the EHR", "refused", "mend the cause, then `chartbound resend ID`"),
        Attention("retractions refused by the EHR", *deliveries.refused_beside(conn), "`chartbound resend ID`, or by hand"),
        _state(conn, "held", "held", "`chartbound results --state held`"),
        _state(conn, "unreadable", "unreadable", "`chartbound results --state unreadable`"),
        *(
            Attention(f"{gap['instrument']}: {gap['said']} not heard", gap["count"], gap["at"], "see its own memory")
            for gap in gaps(conn, since)
        ),
    ]
    queued_at = deliveries.oldest_queued_at(conn)
    if queued_at is not None and now - queued_at >= _LATE:
        queued = results.count_and_oldest(conn, "queued")[0]
        found.append(Attention("waiting for the EHR", queued, queued_at, "is the EHR's interface up? They go by themselves"))
    if incomplete := results.incomplete_units(conn, since):
        hint = "an instrument fell silent in mid-message: see its own memory and run the report again"
        found.append(Attention("incomplete transmissions", len(incomplete), incomplete[-1].heard_at, hint))
    return [one for one in found if one.count]


def _state(conn: Connection, what: str, state: str, hint: str, *, critical: bool = False) -> Attention:
    count, oldest = results.count_and_oldest(conn, state, critical=critical)
    return Attention(what, count, oldest, hint)


def _alarms(conn: Connection, what: str, kind: str, since: datetime, hint: str) -> Attention:
    raised = results.alarms(conn, kind, since)
    ids = ", ".join(str(one.report) for one in raised[:5])
    return Attention(what, len(raised), raised[-1].at if raised else None, f"{hint}: results {ids}")


def waiting(site: Site, now: datetime) -> tuple[list[Attention], bool]:
    """What waits for a person, and whether the store is away: then that is it, and the running agent can still be shown."""
    engine = open_store(site.store.url, host.state_folder(site.state_dir))
    try:
        migrate(engine)
        with reading(engine) as conn:
            return attention(conn, now), False
    except StoreUnavailable as away:
        return [Attention(away.what, 1, None, away.hint)], True
    finally:
        engine.dispose()


def gaps(conn: Connection, since: datetime) -> list[dict[str, Any]]:
    """Running numbers of instruments that were never heard, those heard later left out."""
    found = []
    for raised in results.alarms(conn, "sequence_gap", since):
        gap = raised.detail
        first, last = gap["from"], gap["to"]
        missing = results.missing_sequence(conn, gap["agent"], gap["instrument"], first, last, raised.at - _ROUND)
        if missing:
            said = str(first) if first == last else f"{first}–{last}"
            found.append({"instrument": gap["instrument"], "said": said, "count": len(missing), "at": raised.at})
    return found
