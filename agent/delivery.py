"""Takes the messages that wait in the outbox to the EHR, one at a time, until the EHR has answered for each.

One `Sender` a destination, stop-and-wait: a message is on the wire, or none. Every attempt ends in an `Outcome`:

    delivered    the EHR has it (AA; CA received and safe)
    unreachable  nothing of it was sent: the destination as a whole backs off, the row is untouched
    unanswered   it may have arrived: the socket is closed first, then the same bytes go again
    retry        the EHR could not take it now (AE): the same bytes again, a bounded number of times
    refused      a person must look (AR, CR, CE, too many AE); it holds nothing else back

Payloads are read one by one, just before they are sent; an outcome is handed to the store's writer and rides in its next
commit.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ..hl7 import oru
from ..hl7.ack import ACCEPTED, Ack
from ..hl7.profile import Profile
from .charting import retraction_id
from .mllp_wire import Destination, Unanswered, Unreachable, Wire
from .store import deliveries
from .store.deliveries import POSTED, QUEUED, REFUSED, UNANSWERED, Attempt, Letter
from .store.engine import reading

log = structlog.get_logger("chartbound.delivery")

_PICKS = 128  # ids in memory at a time
_LOOK_AGAIN = 0.1  # seconds after which new arrivals are let in among the picks in hand
_GATHER = 0.05  # seconds for which outcomes gather in a burst: fewer commits, and room between them for other writers
_MOST_UNCOMMITTED = 500
_LEAST_LEASE = 60.0  # seconds
_ASK_AGAIN = 5.0  # seconds, where another agent holds the lease


class Outcome(StrEnum):
    DELIVERED = "delivered"
    UNREACHABLE = "unreachable"
    UNANSWERED = "unanswered"
    RETRY = "retry"
    REFUSED = "refused"


class Writer(Protocol):
    """The agent's one thread that writes the store."""

    def submit(self, job: Callable[[Connection], None], committed: Callable[[], None] | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Status:
    """What a sender is doing, for `status` and the screens."""

    destination: str
    connected: bool = False
    leased: bool = False  # False: another agent sends to this destination, or nothing was to be sent yet
    last_outcome: Outcome | None = None
    last_at: datetime | None = None
    unreachable_since: datetime | None = None
    problem: str = field(default="", repr=False)  # why it is unreachable or silent, for a person


def judge(ack: Ack, profile: Profile, errors_before: int) -> Outcome:
    """What this answer means by the EHR's profile, after so many answers that asked for another try.

    A CA that no application answer followed is never resent; a person looks where the filing was to be said. A code that
    is not in table 0008 is a refusal: the message was read, and sending it for ever would not help.
    """
    if ack.code == "CA" and profile.ack_means == "filed":
        return Outcome.REFUSED
    if ack.code in ACCEPTED:
        return Outcome.DELIVERED
    if ack.code in retryable(profile) and errors_before < profile.policy.ae_retries:
        return Outcome.RETRY
    return Outcome.REFUSED


def retryable(profile: Profile) -> frozenset[str]:
    """The codes after which the same message is tried again, `ae_retries` times in all."""
    policy = profile.policy
    asked = (("AR", policy.ar), ("CR", policy.cr), ("CE", policy.ce))
    return frozenset({"AE"} | {code for code, after in asked if after == "retry"})


def backoff(attempt: int, retry: tuple[float, float], rng: random.Random) -> float:
    """Seconds to wait after the attempt of this number (from 1): doubled each time, jittered, never over the longest."""
    first, longest = retry
    return min(longest, first * 2.0 ** min(attempt - 1, 30)) * rng.uniform(0.5, 1.0)


def shown(text: str, limit: int = 200) -> str:
    """The peer's text on one line, its control characters escaped, cut at `limit` characters."""
    plain = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text[: limit + 1]
    )
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


class Sender:
    """The life of one destination. `run` is a thread's body; `wake` may be called from any thread."""

    def __init__(
        self,
        destination: Destination,
        engine: Engine,
        writer: Writer,
        holder: str,
        *,
        poll_seconds: float = 1.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        self.destination = destination
        self._engine = engine
        self._writer = writer
        self._holder = holder
        self._poll = poll_seconds
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._wire = Wire(destination)
        self._lease = _Lease(destination, writer, holder, self.wake)
        self._bell = threading.Event()
        self._lock = threading.Lock()
        self._uncommitted: dict[int, bool] = {}  # row in hand → whether it holds its patient's later ones back no more
        self._status = Status(destination.name)
        self._outcomes: list[Attempt] = []  # not yet handed to the writer
        self._since = 0.0  # monotonic, when the first of them came; 0.0: there is none
        self._not_before = 0.0  # monotonic; the destination as a whole waits until then
        self.attempts_to_connect = 0  # in a row, without success
        self._silent = 0  # messages in a row that were sent and not answered
        self._away = False  # the store cannot be read

    def wake(self) -> None:
        """Look at the outbox at once: something was queued or committed."""
        self._bell.set()

    def status(self) -> Status:
        with self._lock:
            return replace(self._status, connected=self._wire.connected, leased=self._lease.held())

    def run(self, stop: threading.Event) -> None:
        """Send what is due until `stop` is set; it takes up to `poll_seconds`, or 2 s with a message on the wire."""
        try:
            while not stop.is_set():
                self._bell.clear()
                try:
                    idle = self._turn(stop)
                    self._away = False
                except DBAPIError as error:
                    if not self._away:
                        cause = type(error.orig).__name__
                        log.warning("the store cannot be read", destination=self.destination.name, cause=cause)
                    self._away = True
                    idle = self._poll
                self._tell()
                if idle:
                    self._bell.wait(min(idle, self._poll))
        finally:
            self._wire.close()
            self._tell()
            self._lease.release()

    def _turn(self, stop: threading.Event) -> float:
        """Send what is due now; return for how many seconds there is nothing to do, 0.0 where there may be more."""
        wait = self._not_before - time.monotonic()
        if wait > 0:
            return wait
        picked = self._pick()
        if not picked or not self._lease.hold():
            return self._poll
        since = time.monotonic()
        sent = False
        for delivery_id in picked:
            if stop.is_set() or (self._bell.is_set() and time.monotonic() - since > _LOOK_AGAIN):
                break
            if not self._lease.hold():
                break
            sent |= self._deliver(delivery_id, stop)
            if self._outcomes and time.monotonic() - self._since > _GATHER:
                self._tell()
            if self._not_before > time.monotonic():
                break
            if self.destination.profile.gap_seconds:
                self._tell()
                stop.wait(self.destination.profile.gap_seconds)
        return 0.0 if sent else self._poll

    def _pick(self) -> list[int]:
        """Ids to send now, at most one a patient; none while too many outcomes wait for the store."""
        with self._lock:
            busy = set(self._uncommitted)
            settled = {delivery_id for delivery_id, done in self._uncommitted.items() if done}
        if len(busy) >= _MOST_UNCOMMITTED:
            return []
        with reading(self._engine) as conn:
            return deliveries.next_due(conn, self.destination.name, self._clock(), _PICKS, busy=busy, settled=settled)

    def _deliver(self, delivery_id: int, stop: threading.Event) -> bool:
        """Make one attempt; return whether one was made."""
        with reading(self._engine) as conn:
            letter = deliveries.load(conn, delivery_id)
        if letter is None:
            return False
        try:
            ack = self._wire.exchange(letter.body, letter.control_id, stop, self._tell)
        except Unreachable as unreachable:
            self._back_off(str(unreachable))
            return False
        except Unanswered as unanswered:
            self._reached()
            self._silent += 1
            if self._silent > 1:  # not this one message: the receiver is in trouble, and resends would flood it
                self._wait(backoff(self._silent - 1, self.destination.retry, self._rng))
            self._settle(letter, Outcome.UNANSWERED, None, str(unanswered))
        except ValueError as unsendable:
            self._settle(letter, Outcome.REFUSED, None, str(unsendable))
        else:
            self._reached()
            self._silent = 0
            errors = 0
            if ack.code in retryable(self.destination.profile):
                with reading(self._engine) as conn:
                    errors = deliveries.errors_so_far(conn, letter, retryable(self.destination.profile))
            self._settle(letter, judge(ack, self.destination.profile, errors), ack, "")
        return True

    def _settle(self, letter: Letter, outcome: Outcome, ack: Ack | None, why: str) -> None:
        """Note the outcome for the writer; until it is committed the row counts as in hand."""
        number, now = letter.attempts + 1, self._clock()
        state = {Outcome.DELIVERED: POSTED, Outcome.REFUSED: REFUSED, Outcome.UNANSWERED: UNANSWERED}.get(outcome, QUEUED)
        settled = state in (POSTED, REFUSED)
        text = shown("; ".join(filter(None, (ack.text, ack.error)))) if ack else ""
        answer = " ".join(filter(None, (shown(ack.code, 8), text))) if ack else why
        attempt = Attempt(
            letter.id,
            number,
            state,
            outcome.value,
            now,
            next_attempt_at=None if settled else now + timedelta(seconds=backoff(number, self.destination.retry, self._rng)),
            ack_code=shown(ack.code, 8) if ack else "",
            ack_text=text,
            words=answer,
            may_be_doubled=letter.state == UNANSWERED and self.destination.profile.dedupes_by == "none",
        )
        with self._lock:
            self._uncommitted[letter.id] = settled
            self._status = replace(self._status, last_outcome=outcome, last_at=now, problem=why)
        if outcome is Outcome.DELIVERED:
            log.info("delivered", destination=self.destination.name, result=letter.report, ack_code=attempt.ack_code)
        else:
            log.warning(
                "not delivered",
                destination=self.destination.name,
                delivery=letter.id,
                attempt=number,
                outcome=outcome.value,
                ack_code=attempt.ack_code,
                why=why,
            )
        self._outcomes.append(attempt)
        self._since = self._since or time.monotonic()

    def _tell(self) -> None:
        """Hand the outcomes that have gathered to the writer."""
        attempts, self._outcomes, self._since = self._outcomes, [], 0.0
        if not attempts:
            return
        recorded = False

        def job(conn: Connection) -> None:
            nonlocal recorded
            for row, control_id in deliveries.record(conn, attempts):
                fresh_id = retraction_id(control_id)
                retracted = partial(oru.retraction_of, control_id=fresh_id, profile=self.destination.profile)
                deliveries.retract(conn, row, fresh_id, retracted, self._clock())
            recorded = True

        def committed() -> None:
            if not recorded:  # the store refused them, which is our bug: the rows stay in hand, never a flood of resends
                log.error("outcomes were not recorded", destination=self.destination.name, count=len(attempts))
                return
            with self._lock:
                for attempt in attempts:
                    self._uncommitted.pop(attempt.delivery, None)
            self.wake()

        self._writer.submit(job, committed)

    def _back_off(self, why: str) -> None:
        self.attempts_to_connect += 1
        self._wait(backoff(self.attempts_to_connect, self.destination.retry, self._rng))
        now = self._clock()
        if self.attempts_to_connect == 1:
            log.warning("unreachable", destination=self.destination.name, why=why)
        with self._lock:
            since = self._status.unreachable_since or now
            self._status = replace(
                self._status, last_outcome=Outcome.UNREACHABLE, last_at=now, unreachable_since=since, problem=why
            )

    def _reached(self) -> None:
        if self.attempts_to_connect:
            log.info("reachable again", destination=self.destination.name, attempts=self.attempts_to_connect)
        self.attempts_to_connect = 0
        with self._lock:
            self._status = replace(self._status, unreachable_since=None, problem="")

    def _wait(self, seconds: float) -> None:
        self._not_before = time.monotonic() + seconds


class _Lease:
    """The right to send to a destination, asked for through the writer and counted only once it is committed."""

    def __init__(self, destination: Destination, writer: Writer, holder: str, granted: Callable[[], None]) -> None:
        self._destination = destination
        self._writer = writer
        self._holder = holder
        self._granted = granted
        # An exchange must end well inside the lease; the lease is counted from before it was asked for.
        self._exchange = destination.longest_exchange
        self._seconds = max(_LEAST_LEASE, 3 * self._exchange)
        self._until = 0.0  # monotonic
        self._ask_at = 0.0
        self._asking = False

    def held(self) -> bool:
        return self._until > time.monotonic()

    def hold(self) -> bool:
        """Whether a message may be sent now. Asks for the lease where it is not held, and again at its half."""
        now = time.monotonic()
        if self._until - now < self._seconds / 2 and now >= self._ask_at and not self._asking:
            self._ask(now)
        return self._until - time.monotonic() > self._exchange

    def _ask(self, now: float) -> None:
        self._asking = True
        taken = False

        def job(conn: Connection) -> None:
            nonlocal taken
            taken = deliveries.take_lease(conn, self._destination.name, self._holder, self._seconds)

        def committed() -> None:
            if taken:
                self._until = now + self._seconds
            else:
                self._ask_at = now + _ASK_AGAIN
            self._asking = False
            if taken:
                self._granted()

        self._writer.submit(job, committed)

    def release(self) -> None:
        if self.held():
            self._until = 0.0
            self._writer.submit(lambda conn: deliveries.release_lease(conn, self._destination.name, self._holder))
