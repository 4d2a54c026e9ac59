"""Lets a simulated instrument and a link of ours talk in memory, in a time of their own, and writes down what was said."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..drivers.link import Event, Link
from ..drivers.transcript import Heard, Said, Step, Wait


@dataclass(slots=True)
class Conversation:
    """A host's link and an instrument on one wire. `now` is seconds of their own time."""

    host: Link
    instrument: Link
    now: float = 0.0
    events: list[Event] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def run(self, seconds: float) -> list[Event]:
        """Let them talk for this long and return what the host's link made of it."""
        first = len(self.events)
        until = self.now + seconds
        self._exchange()
        while (due := min((d for d in (self.host.deadline, self.instrument.deadline) if d is not None), default=until)) < until:
            if due > self.now:
                self.steps.append(Wait(due - self.now))
                self.now = due
            self.events += self.host.handle_timeout(self.now)
            self.instrument.handle_timeout(self.now)
            self._exchange()
        self.now = until
        return self.events[first:]

    def _exchange(self) -> None:
        talking = True
        while talking:
            said = b"".join(out.data for out in self.host.data_to_send())
            if said:
                self.steps.append(Said(said))
                self.instrument.receive_data(said, self.now)
            heard = b"".join(out.data for out in self.instrument.data_to_send())
            if heard:
                self.steps.append(Heard(heard))
                self.events += self.host.receive_data(heard, self.now)
            talking = bool(said or heard)
