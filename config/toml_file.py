"""Reads a TOML file into a pydantic model and says every mistake at once, each with its line and a hint."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from .errors import ConfigError, nearest
from .toml_lines import Path as KeyPath
from .toml_lines import key_lines

Model = TypeVar("Model", bound=BaseModel)

_WORDS = {  # what pydantic calls it → what the person at the file must do
    "missing": "is missing",
    "extra_forbidden": "is not a key here",
    "string": 'must be text in "quotes"',
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "tuple": "must be a list in [brackets]",
    "list": "must be a list in [brackets]",
    "model": "must be a table",
    "dict": "must be a table",
    "too_short": "needs at least {min_length} of it",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters",
    "string_pattern_mismatch": "has not the form {pattern}",
}

_TYPE = re.compile(r"_(type|parsing|from_float|attributes_type)$")


def wrong(what: str, hint: str = "") -> PydanticCustomError:
    """The exception by which a validator says what is wrong with a value, in words for the person at the file."""
    return PydanticCustomError("site", "{what}", {"what": what, "hint": hint})


def read(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int], list[ConfigError]]:
    """The file's content and the line of each key; or the one error that kept it from being read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        return {}, {}, [ConfigError(path, 1, "", f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return {}, {}, [ConfigError(path, line, "", "is not UTF-8 text", "save the file as UTF-8")]
    text = text.replace("\r\n", "\n")
    try:
        return tomllib.loads(text), key_lines(text), []
    except tomllib.TOMLDecodeError as error:
        what, line = _syntax_error(str(error), text)
        hint = "the lines after it were not looked at"
        if "overwrite" in what or "twice" in what:
            hint = "this key or table stands twice"
        elif "\\" in text.split("\n")[line - 1]:
            hint = "write a Windows path in 'single quotes'"
        return {}, {}, [ConfigError(path, line, "", what, hint)]
    except RecursionError:
        return {}, {}, [ConfigError(path, 1, "", "is nested too deeply")]


def validate(
    model: type[Model],
    content: Mapping[str, Any],
    lines: Mapping[KeyPath, int],
    path: Path,
    *,
    context: object = None,
    model_at: Callable[[KeyPath], type[BaseModel] | None] = lambda _: None,
) -> tuple[Model | None, list[ConfigError]]:
    """The model of this content, or every reason why it is none. `model_at` knows the tables whose model depends on a value."""
    try:
        return model.model_validate(content, context=context), []
    except ValidationError as error:
        return None, [_in_words(each, model, lines, path, model_at) for each in error.errors(include_url=False)]


def _syntax_error(message: str, text: str) -> tuple[str, int]:
    what, _, where = message.partition(" (at ")
    line = re.match(r"line (\d+)", where)
    return f"is not TOML: {what[:1].lower()}{what[1:]}", int(line[1]) if line else text.count("\n") + 1


def _in_words(
    error: ErrorDetails,
    model: type[BaseModel],
    lines: Mapping[KeyPath, int],
    path: Path,
    model_at: Callable[[KeyPath], type[BaseModel] | None],
) -> ConfigError:
    key: KeyPath = error["loc"]
    parent = model_at(key[:-1]) or _model_of(model, key[:-1], model_at)
    details = error.get("ctx", {})
    kind = error["type"]
    if kind == "site":
        what, hint = details["what"], details["hint"]
    else:
        words = _WORDS.get(kind) or _WORDS.get(_TYPE.sub("", kind))
        what = words.format(**details) if words else str(details.get("error", error["msg"]))
        hint = _known_keys(str(key[-1]), parent, model) if kind == "extra_forbidden" else _described(key, parent)
    return ConfigError(path, _line(key, lines), _spelled(key), what, hint)


def _line(key: KeyPath, lines: Mapping[KeyPath, int]) -> int:
    """The line of the key, or of the nearest table around it where the key is missing."""
    return next((lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in lines), 1)


def _spelled(key: KeyPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def _known_keys(key: str, parent: type[BaseModel] | None, model: type[BaseModel]) -> str:
    if parent is None:
        return ""
    if close := nearest(key, parent.model_fields):
        return f"did you mean {close}?"
    for section, field in model.model_fields.items():
        inner = model_in(field.annotation)
        if inner is not None and key in inner.model_fields:
            return f"it belongs to {section}"
    return f"known here: {', '.join(parent.model_fields)}" if parent.model_fields else "there are no keys here"


def _described(key: KeyPath, parent: type[BaseModel] | None) -> str:
    """The field's own description serves as the hint. An element of a list has that of its list."""
    name = next((part for part in reversed(key) if isinstance(part, str)), "")
    field = parent.model_fields.get(name) if parent else None
    return (field.description or "") if field else ""


def _model_of(
    model: type[BaseModel], key: KeyPath, model_at: Callable[[KeyPath], type[BaseModel] | None]
) -> type[BaseModel] | None:
    """The model of the table at this path."""
    here: type[BaseModel] | None = model
    for size, part in enumerate(key, 1):
        if isinstance(part, int) or here is None:
            continue
        field = here.model_fields.get(part)
        inner = model_at(key[:size]) or (model_in(field.annotation) if field else None)
        # a list of plain values has no model of its own: its elements are described where the list is
        here = inner or (here if size == len(key) or isinstance(key[size], int) else None)
    return here


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)
