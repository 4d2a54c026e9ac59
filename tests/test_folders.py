"""The watched folder: what is dropped is taken once, whole, and kept, whatever the droppers, the disk and the agent do."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.agent.folders import FolderTrouble, Unwanted, WatchedFolder
from chartbound.drivers.ekg_formats import sniff
from chartbound.simulators import ekg as cart
from chartbound.simulators.peer import SimulatedTest

WHOLE = b"<a>whole</a>"
rights = pytest.mark.skipif(os.name == "nt", reason="a file's mode does not take rights away on Windows")


@dataclass
class Bench:
    """A folder, what takes its files, and a clock that is moved by hand."""

    path: Path
    mode: Literal["move", "copy"] = "move"
    complete: Callable[[bytes], bool] = sniff.is_whole
    memory: Path | None = None
    suffixes: tuple[str, ...] = ()
    now: float = 1000.0
    taken: list[tuple[str, bytes]] = field(default_factory=list)
    told: list[FolderTrouble] = field(default_factory=list)
    refuse: Exception | None = None
    read: Counter[bytes] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.path.mkdir(exist_ok=True)
        self.open()

    def open(self) -> None:
        """Start the agent's side afresh: only what was taken is remembered."""
        self.folder = WatchedFolder(
            self.path,
            self.take,
            self.known,
            complete=self.counted,
            mode=self.mode,
            suffixes=self.suffixes,
            tell=self.told.append,
            memory=self.memory,
        )

    def counted(self, data: bytes) -> bool:
        self.read[data] += 1
        return self.complete(data)

    def take(self, name: str, data: bytes) -> Future[Any] | None:
        if self.refuse is not None:
            raise self.refuse
        self.taken.append((name, data))
        return None

    def known(self, digest: str) -> bool:
        return any(hashlib.sha256(data).hexdigest() == digest for _, data in self.taken)

    def drop(self, name: str, data: bytes = WHOLE) -> Path:
        target = self.path / name
        target.write_bytes(data)
        return target

    def scan(self, seconds: float = 2.0) -> None:
        self.folder.scan(self.now)
        while self.folder.take_ready(self.now):
            pass
        self.now += seconds

    def settle(self) -> None:
        """Scan as often as a dropped file needs to be taken."""
        for _ in range(3):
            self.scan()

    @property
    def contents(self) -> list[bytes]:
        return [data for _, data in self.taken]

    def names(self, folder: str = ".") -> set[str]:
        where = self.path / folder
        return {entry.name for entry in where.iterdir() if entry.is_file()} if where.is_dir() else set()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "drop")


@pytest.fixture
def ordinary() -> Iterator[Bench]:
    """A bench run by an ordinary user: root may read and write everywhere."""
    base = Path(tempfile.mkdtemp())  # the folders of tmp_path are shut to other users
    root = os.name != "nt" and os.geteuid() == 0
    if root:
        os.chown(base, 65534, 65534)
        os.seteuid(65534)
    try:
        yield Bench(base / "drop")
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(base)


def test_a_file_is_taken_once_and_moved_to_done(bench: Bench) -> None:
    bench.drop("a.xml")
    bench.settle()
    bench.settle()
    assert bench.taken == [("a.xml", WHOLE)]
    assert bench.names() == set()
    assert (bench.path / "done" / "a.xml").read_bytes() == WHOLE


def test_nothing_is_read_at_the_first_sight_of_a_file(bench: Bench) -> None:
    bench.drop("a.xml")
    bench.scan(seconds=0.1)
    bench.scan()
    assert not bench.read  # two scans a moment apart prove nothing
    bench.scan()
    assert bench.taken


def test_a_file_is_moved_only_after_it_is_saved(bench: Bench) -> None:
    synced: Future[None] = Future()
    seen_in_place = []

    def take(name: str, data: bytes) -> Future[None]:
        bench.taken.append((name, data))
        threading.Thread(target=finish).start()
        return synced

    def finish() -> None:
        seen_in_place.append((bench.path / "a.xml").exists())
        synced.set_result(None)

    bench.folder.take = take
    bench.drop("a.xml")
    bench.settle()
    assert seen_in_place == [True]
    assert bench.names("done") == {"a.xml"}


def test_many_files_share_one_sync(bench: Bench) -> None:
    begun: list[Future[None]] = []

    def take(name: str, data: bytes) -> Future[None]:
        begun.append(Future())
        if len(begun) == 20:  # the journal's group commit
            for future in begun:
                future.set_result(None)
        return begun[-1]

    bench.folder.take = take
    for number in range(20):
        bench.drop(f"{number}.xml", b"<a>%d</a>" % number)
    bench.settle()
    assert len(bench.names("done")) == 20


def test_a_file_that_fails_to_be_saved_stays_is_said_once_and_is_taken_later(bench: Bench) -> None:
    bench.refuse = OSError(28, "No space left on device", "patient-name.xml")
    bench.drop("a.xml")
    bench.drop("b.xml", b"<b/>")
    for _ in range(10):
        bench.scan()
    assert bench.names() == {"a.xml", "b.xml"}
    assert [trouble.what for trouble in bench.told] == ["not_saved"]
    assert "patient-name" not in bench.told[0].detail
    bench.refuse = None
    bench.now += 60
    bench.settle()
    assert sorted(bench.contents) == sorted([WHOLE, b"<b/>"])
    assert bench.folder.troubles == {}


def test_one_file_that_cannot_be_taken_does_not_stop_the_others(bench: Bench) -> None:
    def take(name: str, data: bytes) -> None:
        if name == "bad.xml":
            raise RuntimeError(name)
        bench.taken.append((name, data))

    bench.folder.take = take
    bench.drop("bad.xml", b"<bad/>")
    for number in range(5):
        bench.drop(f"{number}.xml", b"<a>%d</a>" % number)
    for _ in range(8):
        bench.scan()
    assert len(bench.taken) == 5
    assert bench.names() == {"bad.xml"}


def test_an_unwanted_file_goes_to_failed_and_is_said(bench: Bench) -> None:
    bench.refuse = Unwanted("it has no header row")
    bench.drop("a.xml")
    bench.settle()
    bench.settle()
    assert bench.names("failed") == {"a.xml"}
    assert [(trouble.what, trouble.name) for trouble in bench.told] == [("unwanted", "a.xml")]


def test_a_crash_between_saving_and_moving_does_not_double_the_result(bench: Bench) -> None:
    bench.drop("a.xml")
    bench.taken.append(("a.xml", WHOLE))  # saved, and then the agent died
    bench.open()
    bench.settle()
    assert len(bench.taken) == 1
    assert bench.names("done") == {"a.xml"}


def test_a_file_that_comes_back_with_the_same_content_is_moved_and_not_taken(bench: Bench) -> None:
    bench.drop("a.xml")
    bench.settle()
    bench.drop("a.xml")
    bench.drop("b.xml")
    bench.settle()
    assert len(bench.taken) == 1
    assert len(bench.names("done")) == 3
    assert all((bench.path / "done" / name).read_bytes() == WHOLE for name in bench.names("done"))


def test_the_same_content_twice_at_once_is_taken_once(bench: Bench) -> None:
    bench.drop("a.xml")
    bench.drop("b.xml")
    bench.settle()
    bench.settle()
    assert len(bench.taken) == 1
    assert bench.names("done") == {"a.xml", "b.xml"}


def test_another_content_under_the_same_name_is_a_new_file_and_overwrites_nothing(bench: Bench) -> None:
    for number in range(4):
        bench.drop("ECG.xml", b"<a>%d</a>" % number)
        bench.settle()
    assert bench.contents == [b"<a>%d</a>" % number for number in range(4)]
    kept = {(bench.path / "done" / name).read_bytes() for name in bench.names("done")}
    assert kept == set(bench.contents)


@pytest.mark.parametrize("how", list(cart.Drop))
def test_no_way_of_dropping_gives_a_part_of_a_file(bench: Bench, how: cart.Drop) -> None:
    test = SimulatedTest(at=datetime(2026, 3, 2, 9, 31), sequence=2)  # noqa: DTZ001 - a cart's local clock
    data, earlier = cart.write(test, confirmed=True), cart.write(test)
    for _step in cart.drop(bench.path, "a.xml", data, how, earlier):
        bench.settle()
    bench.settle()
    assert bench.contents in ([data], [earlier, data])
    assert bench.contents[-1] == data


def test_a_file_half_written_at_any_byte_is_never_taken(bench: Bench) -> None:
    data = b'<?xml version="1.0"?><a b="c"><!-- d --><e>\xc3\xa9</e></a>'
    for cut in range(len(data)):
        bench.drop("a.xml", data[:cut])
        bench.now += 60
        bench.settle()
        assert not bench.taken
    bench.drop("a.xml", data)
    bench.now += 60
    bench.settle()
    assert bench.contents == [data]


def test_a_file_that_changes_while_it_waits_its_turn_must_settle_again(bench: Bench) -> None:
    bench.complete = bool
    bench.drop("a.csv", b"first")
    for _ in range(3):
        bench.folder.scan(bench.now)
        bench.now += 2
    bench.drop("a.csv", b"first and second")
    assert bench.folder.take_ready(bench.now) == 1
    assert not bench.read
    bench.settle()
    assert bench.contents == [b"first and second"]


def test_an_empty_file_is_never_ready_and_alarms(bench: Bench) -> None:
    bench.drop("a.xml", b"")
    for _ in range(10):
        bench.scan(seconds=60)
    assert bench.told == []
    for _ in range(10):
        bench.scan(seconds=60)
    assert [trouble.what for trouble in bench.told] == ["incomplete"]
    assert "empty" in bench.told[0].detail
    bench.drop("a.xml")
    bench.settle()
    assert bench.taken
    assert bench.folder.troubles == {}


def test_a_file_that_never_completes_alarms_once_and_stays(bench: Bench) -> None:
    bench.drop("Berg, Ada.xml", b"<a>half")
    for _ in range(60):
        bench.scan(seconds=30)
    assert [(trouble.what, trouble.name) for trouble in bench.told] == [("incomplete", "Berg, Ada.xml")]
    assert "15 minutes" in bench.told[0].detail
    assert "Berg" not in repr(bench.told)
    assert bench.names() == {"Berg, Ada.xml"}
    (bench.path / "Berg, Ada.xml").unlink()
    bench.scan()
    assert bench.folder.troubles == {}


def test_an_incomplete_file_is_not_read_at_every_scan(bench: Bench) -> None:
    bench.drop("a.xml", b"<a>half")
    for _ in range(300):
        bench.scan(seconds=2)
    assert sum(bench.read.values()) < 25


@pytest.mark.parametrize(
    "name", ["a.tmp", "a.xml.part", "A.PART", "a.filepart", "a.xml~", "a.crdownload", ".a.xml", "~$a.xml", "Thumbs.db"]
)
def test_unfinished_and_hidden_files_are_left_alone(bench: Bench, name: str) -> None:
    bench.drop(name)
    bench.settle()
    assert not bench.taken
    assert bench.names() == {name}


def test_folders_links_and_pipes_are_left_alone(bench: Bench, tmp_path: Path) -> None:
    (bench.path / "inner").mkdir()
    (bench.path / "inner" / "a.xml").write_bytes(WHOLE)
    (tmp_path / "elsewhere.xml").write_bytes(WHOLE)
    if hasattr(os, "mkfifo"):
        (bench.path / "link.xml").symlink_to(tmp_path / "elsewhere.xml")
        os.mkfifo(bench.path / "pipe.xml")
    bench.settle()
    assert not bench.taken


def test_only_files_of_the_wanted_endings_are_looked_at(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "orders", complete=bool, suffixes=(".hl7", ".csv"))
    bench.drop("a.CSV", b"a,b\n")
    bench.drop("readme.txt", b"hello")
    bench.settle()
    assert [name for name, _ in bench.taken] == ["a.CSV"]


def test_a_folder_that_is_away_is_said_once_and_watched_again_when_it_is_back(bench: Bench) -> None:
    bench.path.rmdir()
    bench.settle()
    assert [trouble.what for trouble in bench.told] == ["folder_away"]
    assert str(bench.path) in bench.told[0].detail
    bench.path.mkdir()
    bench.drop("a.xml")
    bench.settle()
    assert bench.taken
    assert bench.folder.troubles == {}


def test_a_file_that_cannot_be_moved_is_taken_once_and_the_others_go_on(bench: Bench) -> None:
    (bench.path / "done").write_bytes(b"a file where the folder should be")
    bench.complete = lambda data: data.startswith(b"<")
    bench.drop("a.xml")
    bench.drop("b.xml", b"<b/>")
    for _ in range(20):
        bench.scan()
    assert sorted(bench.contents) == sorted([WHOLE, b"<b/>"])
    assert [trouble.what for trouble in bench.told] == ["not_moved"]
    assert 'mode = "copy"' in bench.told[0].detail
    (bench.path / "done").unlink()
    bench.now += 60
    bench.settle()
    assert bench.names("done") == {"a.xml", "b.xml"}
    assert len(bench.taken) == 2
    assert bench.folder.troubles == {}


@rights
def test_a_read_only_folder_is_said_with_its_remedy(ordinary: Bench) -> None:
    ordinary.drop("a.xml")
    ordinary.path.chmod(0o500)
    for _ in range(10):
        ordinary.settle()
    assert [trouble.what for trouble in ordinary.told] == ["not_moved"]
    assert 'mode = "copy"' in ordinary.told[0].detail
    assert len(ordinary.taken) == 1
    ordinary.path.chmod(0o700)
    ordinary.now += 60
    ordinary.settle()
    assert ordinary.names("done") == {"a.xml"}
    assert len(ordinary.taken) == 1


@rights
def test_a_file_that_may_not_be_read_is_retried_said_once_and_taken_when_it_may(ordinary: Bench) -> None:
    locked = ordinary.drop("a.xml")
    locked.chmod(0)
    ordinary.drop("b.xml", b"<b/>")
    for _ in range(40):
        ordinary.scan()
    assert ordinary.contents == [b"<b/>"]
    assert [trouble.what for trouble in ordinary.told] == ["locked"]
    locked.chmod(0o600)
    ordinary.now += 60
    ordinary.settle()
    assert WHOLE in ordinary.contents
    assert ordinary.folder.troubles == {}


def test_a_file_written_again_while_it_is_saved_is_read_again(bench: Bench) -> None:
    def take(name: str, data: bytes) -> None:
        bench.taken.append((name, data))
        if len(bench.taken) == 1:
            bench.drop("a.xml", b"<a>a later version</a>")

    bench.folder.take = take
    bench.drop("a.xml")
    bench.settle()
    bench.settle()
    assert bench.contents == [WHOLE, b"<a>a later version</a>"]
    assert {(bench.path / "done" / name).read_bytes() for name in bench.names("done")} == {b"<a>a later version</a>"}


def test_a_huge_file_is_said_and_not_read(bench: Bench) -> None:
    bench.folder.largest = 1 << 20
    bench.drop("a.xml", bytes((1 << 20) + 1))
    bench.settle()
    assert [trouble.what for trouble in bench.told] == ["too_large"]
    assert not bench.read


def test_copied_files_stay_and_are_not_read_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "drop", mode="copy", memory=tmp_path / "seen")
    for number in range(30):
        bench.drop(f"{number}.xml", b"<a>%d</a>" % number)
    bench.settle()
    bench.open()
    bench.settle()
    assert len(bench.taken) == 30
    assert len(bench.names()) == 30
    assert not (bench.path / "done").exists()
    assert sum(bench.read.values()) == 30
    bench.drop("7.xml", b"<a>another</a>")
    bench.settle()
    assert bench.contents[-1] == b"<a>another</a>"


def test_copied_files_are_known_by_content_where_the_memory_is_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "drop", mode="copy", memory=tmp_path / "seen")
    bench.drop("a.xml")
    bench.settle()
    (tmp_path / "seen").write_bytes(b"\xff\xfenonsense\n" + b"0" * 40)
    bench.open()
    bench.settle()
    assert len(bench.taken) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "scan", "crash", "remove"]), st.sampled_from("abc"), st.integers(0, 3)), max_size=25
    )
)
@settings(deadline=None, max_examples=60)
def test_whatever_happens_every_settled_content_is_taken_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("any") / "drop")
    size = 0
    for what, name, number in steps:
        match what:
            case "write":
                size += 1
                bench.drop(f"{name}.xml", b"<a>%d</a>" % number + b" " * size)  # a size of its own: no time can hide it
            case "scan":
                bench.scan()
            case "crash":
                bench.open()
            case "remove":
                (bench.path / f"{name}.xml").unlink(missing_ok=True)
    last = {(bench.path / name).read_bytes() for name in bench.names()}
    for _ in range(3):
        bench.settle()
    assert all(count == 1 for count in Counter(bench.contents).values())
    assert last <= set(bench.contents)
    assert bench.names() == set()
    kept = {(bench.path / "done" / name).read_bytes() for name in bench.names("done")}
    assert kept <= set(bench.contents)
