"""Finds the line on which each key of a TOML file stands, so that a mistake can be shown where it was made.

`[[instruments]]` on line 3 and `baud = 9600` on line 4 give `("instruments", 0)` → 3 and `("instruments", 0, "baud")` → 4.
The standard library reads TOML but keeps no lines. This scanner keeps lines and reads no values; it is meant for text that
`tomllib` has accepted, and it gives exactly the keys that `tomllib` gives (a property test compares the two).
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED = re.compile(r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
# A multi-line string may end in up to two quotes of its own before the three that close it.
_MULTI_LINE = re.compile(r"""["]{3}(?:[^\\]|\\.)*?"{3,5}(?!")|'{3}.*?'{3,5}(?!')""", re.DOTALL)
_PLAIN_VALUE = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every table, key and array element, by its path. Elements of arrays are numbered from 0.

    Raises ValueError where the text is not TOML.
    """
    return _Scanner(text).lines()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lines: dict[Path, int] = {}
        self._tables_so_far: dict[Path, int] = {}  # how many [[tables]] of this name have been opened

    def lines(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._next_is("[["):
                table = self._header("[[", "]]")
            elif self._next_is("["):
                table = self._header("[", "]")
            else:
                self._key_value(table)
        return self._lines

    def _header(self, opening: str, closing: str) -> Path:
        line = self._line()
        self._expect(opening)
        keys = self._dotted_key()
        self._expect(closing)
        path: Path = ()
        for key in keys[:-1]:  # a name on the way means the [[table]] of it that was opened last
            path = self._latest((*path, key), line)
        path = (*path, keys[-1])
        if opening == "[[":
            number = self._tables_so_far.get(path, 0)
            self._tables_so_far[path] = number + 1
            self._lines.setdefault(path, line)
            path = (*path, number)
        self._lines[path] = line
        return path

    def _latest(self, path: Path, line: int) -> Path:
        self._lines.setdefault(path, line)
        opened = self._tables_so_far.get(path)
        return path if opened is None else (*path, opened - 1)

    def _key_value(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._dotted_key():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._expect("=")
        self._value(path)

    def _dotted_key(self) -> list[str]:
        keys = [self._key()]
        while self._skip(_SPACE) < len(self._text) and self._next_is("."):
            self._at += 1
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        self._skip(_SPACE)
        if quoted := self._take(_QUOTED):
            return str(tomllib.loads(f"key = {quoted}")["key"])
        if bare := self._take(_BARE_KEY):
            return bare
        return self._refuse("a key")

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        if self._next_is("["):
            self._array(path)
        elif self._next_is("{"):
            self._inline_table(path)
        elif not (self._take(_MULTI_LINE) or self._take(_QUOTED) or self._take(_PLAIN_VALUE)):
            self._refuse("a value")

    def _array(self, path: Path) -> None:
        self._expect("[")
        number = 0
        while self._skip(_BLANK) < len(self._text) and not self._next_is("]"):
            element: Path = (*path, number)
            self._lines[element] = self._line()
            self._value(element)
            number += 1
            self._skip(_BLANK)
            if not self._next_is("]"):
                self._expect(",")
        self._expect("]")

    def _inline_table(self, path: Path) -> None:
        self._expect("{")
        while self._skip(_BLANK) < len(self._text) and not self._next_is("}"):
            self._key_value(path)
            self._skip(_BLANK)
            if not self._next_is("}"):
                self._expect(",")
        self._expect("}")

    def _line(self) -> int:
        return bisect_right(self._line_starts, self._at)

    def _next_is(self, mark: str) -> bool:
        return self._text.startswith(mark, self._at)

    def _expect(self, mark: str) -> None:
        self._skip(_SPACE)
        if not self._next_is(mark):
            self._refuse(repr(mark))
        self._at += len(mark)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._take(pattern)
        return self._at

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match.group()

    def _refuse(self, wanted: str) -> str:
        message = f"line {self._line()}: {wanted} was expected"
        raise ValueError(message)
