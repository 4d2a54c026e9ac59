"""Every transcript of every driver, run whole, in any pieces, and cut at every byte.

A transcript stands in `tests/transcripts/<driver>/<name>.txt`. Beside it `<name>.json` states its reports, written by hand: of
each report only the fields named there are compared, its observations as `[code, comparator, value, unit, flag or note]`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chartbound.drivers import driver as drivers
from chartbound.drivers import transcript as tr
from chartbound.drivers.driver import Contact, Driver
from chartbound.drivers.link import Event, Link, Unit
from chartbound.drivers.report import Observation, Report

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*/*.txt"))
ALL = pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")


def load(file: Path) -> tuple[Driver, tr.Transcript]:
    transcript = tr.parse(file.read_text(encoding="utf-8"))
    return drivers.find(file.parent.name), transcript


def link(driver: Driver, transcript: tr.Transcript) -> Link:
    assert driver.connect is not None
    return driver.connect(driver.options(**transcript.options), Contact())


def play(driver: Driver, transcript: tr.Transcript, steps: list[tr.Step] | tuple[tr.Step, ...]) -> tr.Played:
    return tr.play(steps, link(driver, transcript))


def units(events: tuple[Event, ...]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, Unit)]


def reports(driver: Driver, transcript: tr.Transcript, played: tr.Played) -> list[Report]:
    options = driver.options(**transcript.options)
    return [report for unit in units(played.events) for report in driver.parse(unit, options)]


def pieces(steps: tuple[tr.Step, ...], sizes: Iterator[int]) -> list[tr.Step]:
    """The same steps, with what the instrument says in pieces of these sizes."""
    out: list[tr.Step] = []
    for step in steps:
        if not isinstance(step, tr.Heard):
            out.append(step)
            continue
        at = 0
        while at < len(step.data):
            size = next(sizes)
            out.append(tr.Heard(step.data[at : at + size]))
            at += size
    return out


def joined(steps: tuple[tr.Step, ...]) -> list[tr.Step]:
    """The same steps, with all that the instrument says in a row as one piece."""
    out: list[tr.Step] = []
    for step in steps:
        if isinstance(step, tr.Heard) and out and isinstance(out[-1], tr.Heard):
            out[-1] = tr.Heard(out[-1].data + step.data)
        else:
            out.append(step)
    return out


def test_there_are_transcripts_of_every_driver_that_has_a_wire() -> None:
    told = {file.parent.name for file in FILES}
    missing = [driver.name for driver in drivers.shipped() if driver.connect is not None and driver.name not in told]
    assert not missing, f"no transcript shows what these instruments say: {missing}"


@ALL
def test_a_transcript_says_what_it_is(file: Path) -> None:
    _, transcript = load(file)
    assert transcript.driver == file.parent.name
    assert transcript.evidence in ("captured", "composed")
    assert transcript.source


@ALL
def test_its_reports_are_those_written_down_by_hand(file: Path) -> None:
    driver, transcript = load(file)
    expected = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    stated = reports(driver, transcript, play(driver, transcript, transcript.steps))
    assert [told(report, wanted) for report, wanted in itertools.zip_longest(stated, expected, fillvalue=None)] == expected


def told(report: Report | None, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of this report the fields that the hand-written one names, in JSON's terms."""
    if report is None or wanted is None:
        return None if report is None else {"unexpected": str(report)}
    said: dict[str, Any] = {}
    for key in wanted:
        value = getattr(report, key)
        match key:
            case "observations":
                value = [seen(observation) for observation in value]
            case "problem":
                value = bool(value)
            case "observed_at" | "clock":
                value = value and value.isoformat()
            case _ if isinstance(value, tuple):
                value = list(value)
        said[key] = value
    return said


def seen(observation: Observation) -> list[str]:
    return [
        observation.code,
        observation.comparator,
        observation.value,
        observation.unit,
        observation.flag or observation.note,
    ]


@ALL
def test_the_host_says_what_the_transcript_says(file: Path) -> None:
    driver, transcript = load(file)
    said = b"".join(step.data for step in transcript.steps if isinstance(step, tr.Said))
    assert play(driver, transcript, transcript.steps).said == said


@ALL
def test_byte_by_byte_it_is_the_same(file: Path) -> None:
    driver, transcript = load(file)
    whole = play(driver, transcript, transcript.steps)
    assert play(driver, transcript, joined(transcript.steps)).events == whole.events
    assert play(driver, transcript, pieces(transcript.steps, itertools.repeat(1))).events == whole.events


@ALL
@settings(deadline=None, max_examples=15)
@example(sizes=[2])
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_in_any_pieces_it_is_the_same(file: Path, sizes: list[int]) -> None:
    driver, transcript = load(file)
    whole = play(driver, transcript, transcript.steps)
    assert play(driver, transcript, pieces(transcript.steps, itertools.cycle(sizes))).events == whole.events


@ALL
def test_cut_at_every_byte_it_gives_no_other_unit_and_parses_them_all(file: Path) -> None:
    driver, transcript = load(file)
    whole = units(play(driver, transcript, transcript.steps).events)
    steps = pieces(transcript.steps, itertools.repeat(1))
    before: list[bytes] = []
    for cut in range(len(steps) + 1):
        played = play(driver, transcript, [*steps[:cut], tr.Drop()])
        now = units(played.events)
        assert now == whole[: len(now)], f"cut before step {cut}"
        assert len(now) >= len(before), f"cut before step {cut}: a unit given before is gone"
        reports(driver, transcript, played)
        before = now


@settings(deadline=None, max_examples=300)
@example(data=b"a b  CR \x02SP 'CR xE9 \xe9 ")
@example(data=b" 9:30\r ")
@given(
    data=st.binary(max_size=80)
    | st.lists(st.sampled_from(["CR", "'STX", " ", "x80", "\r", "\x02", "a", "SP", "\xff"])).map(
        lambda words: "".join(words).encode("latin-1")
    )
)
def test_every_byte_can_be_written_and_read_back(data: bytes) -> None:
    text = tr.encode(data)
    assert text.isascii()
    assert text == text.rstrip()
    assert "\n" not in text
    assert tr.decode(text) == data


STEPS = st.lists(
    st.binary(max_size=20).map(tr.Heard)
    | st.binary(max_size=20).map(tr.Said)
    | st.floats(min_value=0, allow_nan=False, allow_infinity=False).map(tr.Wait)
    | st.just(tr.Drop()),
    max_size=12,
)


@settings(deadline=None, max_examples=200)
@given(steps=STEPS, source=st.text(alphabet="abc :#<>!", max_size=20))
def test_a_transcript_reads_back_as_it_was_written(steps: list[tr.Step], source: str) -> None:
    written = tr.Transcript(tuple(steps), "dca_vantage", {"id_is": "patient"}, "captured", " ".join(source.split()))
    assert tr.parse(tr.write(written)) == written
    assert tr.parse(tr.write(written).replace("\n", "\r\n")) == written


def test_the_words_of_the_field_are_on_the_line() -> None:
    steps = (tr.Heard(b"\x05"), tr.Said(b"\x06"), tr.Heard(b"\x021H|\\^&\r\x03E5\r\n"), tr.Wait(15), tr.Drop())
    assert tr.dump(steps) == "< ENQ\n> ACK\n< STX 1H|\\^& CR ETX E5 CR LF\n!wait 15\n!drop\n"


@pytest.mark.parametrize("line", ["hello", "!wait", "!wait -1", "!wait nan", "!stop", "<ENQ", "# options: {"])
def test_a_line_that_cannot_be_read_is_named_by_number_and_not_shown(line: str) -> None:
    with pytest.raises(tr.TranscriptError) as error:
        tr.parse(f"< ENQ\n{line}\n")
    assert "line " in str(error.value)
    assert "hello" not in str(error.value)
