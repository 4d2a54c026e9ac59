"""The scanner of lines finds the keys that tomllib finds, each where it stands."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.config.toml_lines import key_lines

KeyPath = tuple[str | int, ...]


def paths(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key), each
        yield from paths(each, (*path, key))


def test_lines_of_a_site_file() -> None:
    text = '[site]\nfacility = "A"\n\n[[instruments]]\nname = "a"\n[instruments.options]\n'
    text += 'ids = [\n  "x", # ]\n  "y",\n]\n[[instruments]]\n'
    lines = key_lines(text)
    assert lines[("site", "facility")] == 2
    assert lines[("instruments", 0, "name")] == 5
    assert lines[("instruments", 0, "options")] == 6
    assert lines[("instruments", 0, "options", "ids", 1)] == 9
    assert lines[("instruments", 1)] == 11


@pytest.mark.parametrize(
    "text",
    [
        'a = """\n[no]\nb = 1\n"""\nc = 2',
        'a = """x"""""\nb = 2',  # two quotation marks before the closing three
        "a = '''x'y''\n'''''\nb = 2",
        'a = ""\nb = \'\'\nc = """"""\nd = 1',
        'a = "\\"]" # "\nb = 2',
        "a = [ [1, 2], # [\n [3],\n]\nb = 2",
        "a = {b = {c = 1}, d = [{e = 2}, {}]}\nf = 1979-05-27 07:32:00\ng = 07:32:00.5",
        'a.b.c = 1\na.b.d = 2\n"a.b" = 3\n\'q x\' = 4\n"\\u00e9" = 5',
        "[a]\nb=1\n[a.c]\nd=1\n[[a.e]]\n[a.e.f]\ng=1\n[[a.e]]\n[a.e.f]\ng=2\n[[a.e.h]]\ni=1",
        "[ a . b ]\nc=1\r\n[ [ x ] ]".replace("[ [", "[[").replace("] ]", "]]"),
        "[x.y]\na=1\n[x]\nb=1",
        "",
        "# only a remark",
        "\ufeff".strip("\ufeff") + "a = -inf\nb = 0x_ff".replace("_", ""),
    ],
)
def test_every_key_of_tomllib_is_found_and_no_other(text: str) -> None:
    assert set(key_lines(text)) == {path for path, _ in paths(tomllib.loads(text))}


@pytest.mark.parametrize("text", ["a", "a =", "[a", "a = [1", "= 1", "a = {b = 1", "a = [1, 2", "a = [[1] 2]"])
def test_text_that_is_not_toml_is_refused_and_never_loops(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        key_lines(text)


KEYS = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True), st.text("a.\"'[]=# \\é", max_size=4))


@st.composite
def toml_texts(draw: st.DrawFn) -> str:
    """A random TOML text in all of the language's ways of saying a table, its values numbers that occur once."""
    numbers = count(7_000_000)

    def key(name: str) -> str:
        return json.dumps(name, ensure_ascii=False) if not name.isalnum() or not name.isascii() or draw(st.booleans()) else name

    def newline() -> str:
        return draw(st.sampled_from(["\n", "\r\n", ' # [ ] " \' """\n']))

    def scalar() -> str:
        number = next(numbers)
        forms = [
            f"{number}",
            f'"{number} ] # \\""',
            f"'{number} }} ['",
            f'"""{number}\n[x]\ny = 1 ""\n"""',
            f"'''{number}\n'x''\\'''",
        ]
        return draw(st.sampled_from(forms))

    def inline(depth: int) -> str:
        kind = draw(st.sampled_from(["scalar", "array", "table"] if depth else ["scalar"]))
        if kind == "array":
            blank = draw(st.sampled_from(["", " ", "\n", " # ]\n  "]))
            parts = [inline(depth - 1) + blank + "," + blank for _ in range(draw(st.integers(0, 3)))]
            return "[" + blank + "".join(parts) + "]"
        if kind == "table":
            names = draw(st.lists(KEYS, max_size=3, unique=True))
            return "{" + ", ".join(f"{key(name)} = {inline(depth - 1)}" for name in names) + "}"
        return scalar()

    def table(header: str, depth: int) -> str:
        text = ""
        tables = ""
        for name in draw(st.lists(KEYS, max_size=4, unique=True)):
            full = f"{header}.{key(name)}" if header else key(name)
            way = draw(st.sampled_from(["value", "dotted", "table", "tables"] if depth else ["value", "dotted"]))
            if way == "value":
                text += f"{key(name)} = {inline(2)}{newline()}"
            elif way == "dotted":
                for last in draw(st.lists(KEYS, min_size=1, max_size=2, unique=True)):
                    text += f"{key(name)} . {key(last)} = {inline(1)}{newline()}"
            elif way == "table":
                tables += f"[{full}]{newline()}{table(full, depth - 1)}"
            else:
                for _ in range(draw(st.integers(1, 3))):
                    tables += f"[[ {full} ]]{newline()}{table(full, depth - 1)}"
        return text + tables

    return table("", 2)


@settings(max_examples=100, deadline=None)
@given(toml_texts())
def test_the_scanner_agrees_with_tomllib_on_any_text(text: str) -> None:
    found = key_lines(text)
    expected = dict(paths(tomllib.loads(text)))
    assert set(found) == set(expected)
    lines = text.split("\n")
    for path, value in expected.items():
        if isinstance(value, int | str):  # every value holds a number that occurs nowhere else
            assert str(value)[:7] in lines[found[path] - 1]
