"""What reaches the log of what happens over and over."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from chartbound.agent.logs import Repeats


class _Minute:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _through(limit: Repeats, **event: Any) -> dict[str, Any] | None:
    try:
        return dict(limit(None, "", dict(event)))
    except structlog.DropEvent:
        return None


def test_a_flood_of_one_kind_is_cut_and_counted_and_hides_no_other() -> None:
    clock = _Minute()
    limit = Repeats(clock)
    flood = [_through(limit, event="trouble on the line", instrument="a", what="noise") for _ in range(1000)]
    assert [bool(one) for one in flood] == [True] * 20 + [False] * 980
    assert _through(limit, event="trouble on the line", instrument="b", what="noise")
    assert _through(limit, event="trouble on the line", instrument="a", what="bad_checksum")
    clock.now = 61.0
    again = _through(limit, event="trouble on the line", instrument="a", what="noise")
    assert again
    assert again["left_out"] == 980
    again = _through(limit, event="trouble on the line", instrument="a", what="noise")
    assert again
    assert "left_out" not in again


@pytest.mark.parametrize("event", [{"event": "delivered"}, {"event": "result", "state": "queued"}])
def test_every_result_and_every_delivery_has_its_line(event: dict[str, str]) -> None:
    limit = Repeats(_Minute())
    assert all(_through(limit, **event) for _ in range(1000))
