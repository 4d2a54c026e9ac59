"""The check character of our labels, against numbers that others publish and against the standard's promises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.hl7.label import check_character, is_checked, issue

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEXTS = st.text(ALPHABET, min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("A12425GABC1234002", "M"),  # the example of the GRid standard: A1-2425G-ABC1234002-M
        ("00000000D07A0090", "Q"),  # ISAN 0000-0000-D07A-0090-Q
        ("0000000189470000", "8"),  # ISAN 0000-0001-8947-0000-8-0000-0000-D
        ("000000018947000000000000", "D"),
    ],
)
def test_published_numbers_have_their_check_character(text: str, check: str) -> None:
    assert check_character(text) == check
    assert is_checked(text + check)


def _congruence(text: str) -> int:
    """The hybrid system as its definition states it: doubling modulo 37, sums modulo 36 with 36 in the place of 0."""
    value = 36
    for character in text[:-1]:
        total = (value + ALPHABET.index(character)) % 36
        value = (2 * (36 if total == 0 else total)) % 37
    return (value + ALPHABET.index(text[-1])) % 36


@given(TEXTS)
def test_the_check_character_makes_the_sum_one(text: str) -> None:
    assert _congruence(text + check_character(text)) == 1


@given(TEXTS, st.data())
def test_one_wrong_character_is_always_found(text: str, data: st.DataObject) -> None:
    label = text + check_character(text)
    place = data.draw(st.integers(0, len(label) - 1))
    other = data.draw(st.sampled_from(ALPHABET).filter(lambda character: character != label[place]))
    assert not is_checked(label[:place] + other + label[place + 1 :])


def test_nearly_every_swap_of_neighbours_is_found() -> None:
    swaps = missed = 0
    for number in range(0, 9_999_999, 4_999):
        label = issue(number)
        for place in range(len(label) - 1):
            swapped = label[:place] + label[place + 1] + label[place] + label[place + 2 :]
            if swapped != label:
                swaps += 1
                missed += is_checked(swapped)
    assert missed / swaps < 0.01


@given(st.integers(0, 10**12))
def test_an_issued_label_is_checked_and_its_number_can_be_read(number: int) -> None:
    label = issue(number)
    assert is_checked(label)
    assert int(label[1:-1]) == number


@given(st.lists(st.integers(0, 10**9), unique=True, max_size=50))
def test_other_numbers_are_other_labels(numbers: list[int]) -> None:
    assert len({issue(number) for number in numbers}) == len(numbers)


@given(st.text(max_size=12))
@settings(max_examples=300)
def test_any_text_can_be_asked_whether_it_is_checked(text: str) -> None:
    if is_checked(text):
        assert set(text) <= set(ALPHABET)


@pytest.mark.parametrize("label", ["", "M", "a12425gabc1234002m", "A1-2425G-ABC1234002-M", "A12425GABC1234002M ", "Ä1"])
def test_what_is_not_digits_and_capitals_with_a_check_is_not_checked(label: str) -> None:
    assert not is_checked(label)


@pytest.mark.parametrize("text", ["", "abc", "12 34", "1-2", "Ü"])
def test_a_text_outside_the_alphabet_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="digits and capital letters") as refused:
        check_character(text)
    assert text == "" or text not in str(refused.value)


def test_a_negative_number_has_no_label() -> None:
    with pytest.raises(ValueError, match="numbered from 0"):
        issue(-1)
