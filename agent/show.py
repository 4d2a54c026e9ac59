"""How the command line shows things to people: short lines and tables that a tired person can read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..drivers.driver import Driver
    from .attention import Attention
    from .check import Checked
    from .ledger import Ledger
    from .serial_ports import SerialPort

console = Console(highlight=False, soft_wrap=True)
_COLOURS = {
    "posted": "green",
    "queued": "cyan",
    "held": "yellow",
    "refused": "red",
    "unreadable": "red",
    "connected": "green",
    "unavailable": "red",
}


def iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def checked_json(found: Checked) -> dict[str, Any]:
    return {
        "problems": list(found.problems),
        "summary": list(found.summary),
        "to_confirm": list(found.to_confirm),
        "notes": list(found.notes),
        "samples": [
            {
                "instrument": one.instrument,
                "destination": one.destination,
                "order_code": one.order_code,
                "message": one.message.decode("utf-8", "backslashreplace"),
                "problem": one.problem,
            }
            for one in found.samples
        ],
    }


def checked(found: Checked) -> None:
    for line in found.summary:
        _say(line)
    for title, lines in (("Note", found.notes), ("To confirm", found.to_confirm)):
        for line in lines:
            _say(f"{title}: {line}", "yellow")
    for line in found.problems:
        _say(f"Problem: {line}", "red")
    if sample := next((one for one in found.samples if one.message), None):
        _say(f"\nA sample message for {sample.instrument}, as {sample.destination} would get it:")
        for segment in sample.message.decode("utf-8", "backslashreplace").split("\r"):
            _say(f"  {segment}", "dim")
    judged = len(found.samples)
    if found.problems:
        _say(f"{len(found.problems)} of {judged} sample messages do not conform to HL7", "red")
    else:
        _say(f"The site file is sound; {judged} sample messages conform to HL7.", "green")


def status(said: dict[str, Any] | None, waiting: Iterable[Attention], now: datetime) -> None:
    if said is None:
        _say("No agent is running on this state folder. Start it with: chartbound run", "yellow")
    elif not said["fresh"]:
        _say(f"The agent (process {said['pid']}) has said nothing since {_when(said['at'])}.", "red")
    else:
        _say(f"The agent runs since {_when(said['started_at'])} (process {said['pid']}).", "green")
    if said is not None:
        _running(said)
    table = _table("needs a person", "how many", "since", "what to do")
    for one in waiting:
        table.add_row(escape(one.what), str(one.count), _age(one.since, now), escape(one.hint))
    if table.row_count:
        console.print(table)
    else:
        _say("Nothing waits for a person.", "green")


def _running(said: dict[str, Any]) -> None:
    table = _table("instrument", "port", "last heard", "reports", "remarks")
    for one in said["instruments"]:
        remarks = [one["unsaved"], one["why"] if one["state"] == "unavailable" else ""]
        remarks += [f"{count} × {what}" for what, count in one["troubles"].items()]
        if one["incomplete"]:
            remarks.append(f"{one['incomplete']} incomplete")
        words = escape("; ".join(filter(None, remarks)))
        table.add_row(escape(one["name"]), _coloured(one["state"]), _when(one["heard_at"]), str(one["units"]), words)
    console.print(table)
    table = _table("destination", "state", "last outcome", "remarks")
    for one in said["destinations"]:
        state = f"away since {_when(one['unreachable_since'])}" if one["unreachable_since"] else "reachable"
        if one["last_outcome"] is None:
            state = "nothing sent yet"
        outcome = f"{one['last_outcome'] or '–'} {_when(one['last_at'])}".strip()
        table.add_row(escape(one["name"]), state, outcome, escape(one["problem"]))
    console.print(table)
    for key in ("store_away", "journal_trouble"):
        if said[key]:
            _say(said[key], "red")
    for name, lines in said["folders"].items():
        for line in lines:
            _say(f"{name}: {line}", "yellow")
    if why := (said.get("orders") or {}).get("why"):
        _say(why, "red")
    for name, count in said["failures"].items():
        _say(f"{name} failed {count} × and was started again: see the log", "red")
    if said["not_settled"]:
        _say(f"{len(said['not_settled'])} units could not be settled, because the program failed: see the log", "red")


def ledger(counted: Ledger) -> None:
    states = ("received", "duplicate", "unreadable", "qc", "held", "queued", "posted", "refused", "dismissed", "superseded")
    table = _table("", "")
    table.show_header = False
    table.add_row("heard", str(counted.heard))
    for state in states:
        if count := getattr(counted, state):
            table.add_row(f"  {state}", str(count))
    console.print(table)
    if counted.incomplete or counted.rereads:
        _say(f"beside it: {counted.incomplete} incomplete transmissions, {counted.rereads} re-read readings")
    if counted.balanced:
        _say(f"Balanced: {counted.heard} heard, {counted.heard} accounted for.", "green")
    else:
        _say("NOT BALANCED: what was heard and what is accounted for differ. Keep the state folder and report it.", "red")


def results(found: Iterable[dict[str, Any]]) -> None:
    table = _table("id", "instrument", "heard", "state", "specimen", "values")
    for one in found:
        state = _coloured(one["state"]) + (f" {one['reason']}" if one["reason"] else "")
        table.add_row(
            str(one["id"]),
            escape(one["instrument"]),
            _when(one["heard_at"]),
            state,
            escape(one["specimen_id"] or ""),
            _values(one),
        )
    console.print(table if table.row_count else "No results.")


def lineage(said: dict[str, Any]) -> None:
    reason = f" {said['reason']}" if said["reason"] else ""
    console.print(f"[bold]Result {said['id']}[/bold] from {escape(said['instrument'])}: {_coloured(said['state'])}{reason}")
    _say(f"  {said['why']}")
    if patient := said["patient"]:
        who = f"{patient['last_name']}, {patient['first_name']} · born {patient['birth_date']} · MRN {patient['mrn']}"
        _say(f"  {who} · specimen {said['specimen_id']}")
    for one in said["observations"]:
        name = one["name"] or one["code"]
        _say(f"  {name}: {one['comparator']}{one['value']} {one['unit']} {one['flag']}".rstrip())
    heard = said["heard"]
    _say(f"\nHeard {_when(said['heard_at'])} as unit {heard['unit']} of journal {heard['journal']}:")
    for raw in heard["wire"]:
        _say(f"  {raw['direction']} {raw['bytes']}", "dim")
    if not heard["wire"]:
        _say(f"  {heard['bytes'] or 'the bytes are no longer here'}", "dim")
    _say("\nEvidence:" if said["evidence"] else "\nNo evidence agreed.")
    for piece in said["evidence"]:
        _say(f"  {piece}")
    for message in said["messages"]:
        attempts = f"{message['attempts']} attempt{'s' * (message['attempts'] != 1)}"
        head = f"\nMessage {message['control_id']} to {message['destination']}"
        _say(f"{head}: {message['state']}, {attempts}, {message['outcome']}")
        for segment in message["message"].split("\r"):
            _say(f"  {segment}", "dim")
    _say("\nWhat happened:")
    for event in said["events"]:
        words = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("at", "what") and value)
        _say(f"  {_when(event['at'])}  {event['what']}: {words}")
    for one in said["acts"]:
        _say(f"  {_when(one['at'])}  {one['act']} by {one['who']}")


def specimens(found: Iterable[dict[str, Any]]) -> None:
    table = _table("specimen", "patient", "born", "MRN", "tests", "")
    for one in found:
        tests = ", ".join(test["name"] or test["code"] for test in one["tests"])
        name = f"{one['last_name']}, {one['first_name']}"
        state = "cancelled" if one["cancelled"] else ""
        table.add_row(*map(escape, (one["specimen_id"], name, one["birth_date"] or "", one["mrn"], tests, state)))
    console.print(table if table.row_count else "No specimens are registered.")


def drivers(rows: Iterable[dict[str, Any]]) -> None:
    table = _table("driver", "instrument", "measures", "link", "port", "evidence")
    table.columns[0].no_wrap = True  # it is to be copied
    for row in rows:
        cells = (row["name"], row["instrument"], row["kind"], row["link"], ", ".join(row["transport"]), row["evidence"])
        table.add_row(*map(escape, cells))
    console.print(table)
    _say("evidence: captured = tried on bytes from a real instrument; documented = built to a vendor's or standard's text;")
    _say("thin = parts rest on memory or one doubtful source. `chartbound drivers NAME` tells how to set one up.")


def driver(one: Driver, options: Iterable[dict[str, Any]]) -> None:
    console.print(f"[bold]{escape(one.name)}[/bold]: {escape(one.instrument)}\n")
    _say(one.help)
    _say("\nOptions, under [instruments.options] in the site file:")
    shown = False
    for option in options:
        default = "required" if option["required"] else f"default {option['default']!r}"
        _say(f"  {option['name']} ({option['form']}), {default}  {option['description']}".rstrip())
        shown = True
    if not shown:
        _say("  none")


def ports(found: Iterable[SerialPort]) -> None:
    table = _table("port", "write in the site file", "what it says of itself")
    for one in found:
        table.add_row(
            escape(one.device), escape(one.usb or one.device), escape(f"{one.description} {one.manufacturer}".strip())
        )
    console.print(table if table.row_count else "This PC has no serial port. Is the adapter plugged in?")


def replayed(said: Iterable[dict[str, Any]]) -> None:
    for one in said:
        if "report" not in one:
            _say(f"{one['what']}: {one['problem'] or one.get('trouble', '')}", "yellow")
            continue
        report = one["report"]
        console.print(
            f"[bold]{escape(report['kind'])}[/bold] {escape(report.get('panel', ''))} {report.get('observed_at', '')}"
        )
        for key in ("specimen_id", "patient_id", "order_number", "operator", "sequence", "lot", "status"):
            if key in report:
                _say(f"  {key}: {report[key]}")
        for value in report["observations"]:
            words = f"{value['code']}: {value.get('comparator', '')}{value['value']} {value.get('unit', '')}"
            _say(f"  {words} {value.get('flag', '')} {value.get('note', '')}".rstrip())
        for line in (*report.get("impression", ()), *report.get("remarks", ())):
            _say(f"  {line}")
        if one["problem"]:
            _say(f"  PROBLEM: {one['problem']}", "red")


def _say(text: str, style: str = "") -> None:
    console.print(text, style=style or None, markup=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _coloured(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def _values(one: dict[str, Any]) -> str:
    shown = [f"{v['code']} {v['comparator']}{v['value']} {v['unit']}".strip() for v in one["observations"][:3]]
    more = len(one["observations"]) - len(shown)
    return escape(", ".join(shown) + (f" and {more} more" if more > 0 else ""))


def _when(at: str | None) -> str:
    return datetime.fromisoformat(at).astimezone().strftime("%d-%b %H:%M:%S") if at else "–"


def _age(since: datetime | None, now: datetime) -> str:
    if since is None:
        return "–"
    minutes = int((now - since).total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
