"""How a stated name is compared with the register's."""

from __future__ import annotations

import pytest

from chartbound.agent.evidence import name_agrees


@pytest.mark.parametrize(
    ("stated", "agrees"),
    [
        (("MUNOZ DIAZ", "ana"), True),
        (("munoz-díaz", "ANA "), True),
        (("MUNOZDIAZ", "Ana"), True),
        (("Muñoz-Díaz, Ana", ""), True),
        (("Munoz", "Ana"), False),
        (("Muñoz-Díaz", "Anna"), False),
        (("Muñoz-Díaz", "A"), False),
        (("Muñoz-Díaz", ""), None),
        (("", "Ana"), None),
        (("", "Eva"), False),
        (("", ""), None),
        (("-", "--"), None),
    ],
)
def test_names_agree_but_for_case_accents_hyphens_and_spaces(stated: tuple[str, str], agrees: bool | None) -> None:
    assert name_agrees(*stated, "Muñoz-Díaz", "Ana") is agrees


def test_letters_with_strokes_and_sharp_s_read_as_they_are_typed() -> None:
    assert name_agrees("SORENSEN", "LUKASZ", "Sørensen", "Łukasz")
    assert name_agrees("STRASSER", "O'BRIEN", "Straßer", "OBrien")
