"""A link and its simulated instrument joined in memory: bytes go to and fro, and time jumps to the next timer."""

from __future__ import annotations

from collections.abc import Callable

from ..drivers.link import Event, Link

Wire = Callable[[bytes], bytes]  # what the wire makes of the bytes that pass it


def clean(data: bytes) -> bytes:
    """A wire that changes nothing."""
    return data


def converse(
    link: Link,
    peer: Link,
    *,
    now: float = 0.0,
    until: float = 3600.0,
    to_link: Wire = clean,
    to_peer: Wire = clean,
    finished: Callable[[], bool] = lambda: False,
) -> list[Event]:
    """Let the two talk until no timer runs, `finished` says so or the clock reads `until` seconds; give the link's events."""
    events: list[Event] = []
    while now <= until and not finished():
        moved = False
        if said := to_link(b"".join(out.data for out in peer.data_to_send())):
            events += link.receive_data(said, now)
            moved = True
        if said := to_peer(b"".join(out.data for out in link.data_to_send())):
            peer.receive_data(said, now)
            moved = True
        if moved:
            continue
        timers = [timer for timer in (link.deadline, peer.deadline) if timer is not None]
        if not timers:
            break
        now = max(now, min(timers))
        if link.deadline is not None and link.deadline <= now:
            events += link.handle_timeout(now)
        if peer.deadline is not None and peer.deadline <= now:
            peer.handle_timeout(now)
    return events
