"""What is wrong in a file that the site writes, said to the person who can mend it: where, what, and a hint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class ConfigError:
    """One mistake: `site.toml:12: instruments[0].baud: must be a whole number; write 9600, without quotes`."""

    file: Path
    line: int  # from 1
    key: str  # "instruments[0].baud", or the column of a CSV; "" where the whole file or line is meant
    what: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " + (f"{self.key}: " if self.key else "")
        text = where + self.what + (f"; {self.hint}" if self.hint else "")
        return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)  # it is shown on a terminal


class ConfigErrors(Exception):
    """The site's files hold mistakes; `errors` has all of them, in the order of file and line."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(sorted(errors))
        super().__init__("\n".join(map(str, self.errors)))


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that a mistyped one most resembles, whatever its case; "" where none comes near."""
    by_folded = {each.casefold(): each for each in known}
    found = get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else ""
