"""The memory of files that stay where they are."""

from __future__ import annotations

from pathlib import Path

from chartbound.agent.seen_files import SeenFiles


def test_the_memory_of_seen_files_forgets_what_is_gone_and_holds_no_name(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    seen = SeenFiles(path)
    keys = [SeenFiles.key(f"Berg-{number}.xml", number, 1) for number in range(1500)]
    for key in keys:
        seen.add(key)
    assert all(key in SeenFiles(path) for key in keys)
    assert b"Berg" not in path.read_bytes()
    seen.keep(set(keys[:10]))
    assert len(SeenFiles(path)) == len(seen) == 10


def test_name_size_and_time_each_make_another_file() -> None:
    keys = {SeenFiles.key(*stated) for stated in [("a", 1, 1), ("b", 1, 1), ("a", 2, 1), ("a", 1, 2), ("a1", 1, 1)]}
    assert len(keys) == 5


def test_a_memory_that_cannot_be_written_still_remembers(tmp_path: Path) -> None:
    seen = SeenFiles(tmp_path / "no such folder" / "seen")
    seen.add(SeenFiles.key("a", 1, 1))
    assert SeenFiles.key("a", 1, 1) in seen
