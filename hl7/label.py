"""The text of the labels we print: it ends in a check character, so that a misread barcode or a slip of the finger shows.

    C0001234H      C0001234, and H is its check character (ISO 7064 MOD 37,36)

One damaged linear barcode can be read as several wrong numbers without complaint. The check character finds every single
wrong character and nearly every swap of two neighbours; it stands for a second piece of evidence, and no other label has it.
"""

from __future__ import annotations

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_M = len(_ALPHABET)  # 36


def check_character(text: str) -> str:
    """The check character of `text` (digits and capital letters), by the hybrid system of ISO 7064 named MOD 37,36.

    Raises `ValueError` for an empty text or any other character; the text itself is not repeated there.
    """
    if not text or not _VALUE.keys() >= set(text):
        message = "a label with a check character holds digits and capital letters A to Z only"
        raise ValueError(message)
    product = _M
    for character in text:
        product = ((product + _VALUE[character]) % _M or _M) * 2 % (_M + 1)
    return _ALPHABET[(1 - product) % _M]


def is_checked(label: str) -> bool:
    """Whether the last character of `label` is the check character of those before it."""
    text, last = label[:-1], label[-1:]
    return bool(text) and _VALUE.keys() >= set(label) and check_character(text) == last


def issue(number: int, prefix: str = "C") -> str:
    """The label of the specimen numbered `number`, seven digits or more: `issue(1234)` is C0001234 and its check character.

    The number, counted or random, is the caller's to keep unique. Raises `ValueError` where it is negative.
    """
    if number < 0:
        message = "labels are numbered from 0"
        raise ValueError(message)
    text = f"{prefix}{number:07d}"
    return text + check_character(text)
