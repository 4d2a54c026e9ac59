"""A report as it is kept in the store: JSON, from which the same report comes back, and the hash that tells two apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from datetime import date, datetime, timedelta
from typing import Any

from ..drivers.report import Observation, Report, SampleKind

_REPORT = {field.name: field.default for field in fields(Report)}
_OBSERVATION = {field.name: field.default for field in fields(Observation)}
_CONTACT = ("clock",)  # says when the instrument was heard, not what it said


def to_json(report: Report) -> dict[str, Any]:
    """The report's fields that say something, as JSON knows them; times in ISO 8601."""
    body = {
        name: _plain(getattr(report, name))
        for name, default in _REPORT.items()
        if name != "observations" and getattr(report, name) != default
    }
    body["observations"] = [
        {name: value for name, default in _OBSERVATION.items() if (value := getattr(one, name)) != default}
        for one in report.observations
    ]
    return body


def from_json(body: dict[str, Any]) -> Report:
    """The report that `to_json` was given."""
    known = {name: _READ.get(name, _same)(value) for name, value in body.items() if name != "observations"}
    return Report(observations=tuple(Observation(**one) for one in body["observations"]), **known)


def content(report: Report) -> str:
    """A hash of all that the instrument stated but the time of this contact: equal for a repeat, other for a correction."""
    body = to_json(report)
    for name in _CONTACT:
        body.pop(name, None)
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:40]


def _plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return list(value) if isinstance(value, tuple) else value


def _same(value: Any) -> Any:
    return value


_READ: dict[str, Callable[[Any], Any]] = {
    "kind": SampleKind,
    "observed_at": datetime.fromisoformat,
    "clock": datetime.fromisoformat,
    "birth_date": date.fromisoformat,
    "precision": lambda seconds: timedelta(seconds=seconds),
    "identity": tuple,
    "impression": tuple,
    "remarks": tuple,
}
