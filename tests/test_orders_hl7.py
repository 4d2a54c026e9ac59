"""Orders in: what waits, for whom, with which tests; senders' habits; refusals that say what to do."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.hl7 import orders
from chartbound.hl7.chart import OrderedTest, Patient, Specimen
from chartbound.hl7.orders import Incoming, OrderMessage, PatientMerge, PatientUpdate, Refused, UnknownMessage
from chartbound.hl7.profile import Orders

CHICAGO = ZoneInfo("America/Chicago")
MSH = "MSH|^~\\&|EHR|RIVERSIDE|||20240501080000||{}|17|P|2.5.1"
PID = "PID|1||4711^^^RIV&1.2&ISO^MR||DOE^JANE^Q||19700102|F||||||||||ACC1^^^T"
JANE = Patient("4711", "DOE", "JANE", date(1970, 1, 2), "F", "RIV&1.2&ISO", "ACC1")


def read(*segments: str, kind: str = "ORM^O01", rules: Orders | None = None) -> Incoming:
    text = "\r".join([MSH.format(kind), *segments, ""])
    return orders.read(text.encode(), rules or Orders(), CHICAGO)


def specimens(incoming: Incoming) -> list[Specimen]:
    return [specimen for act in incoming.acts if isinstance(act, OrderMessage) for specimen in act.specimens]


def refusal(*segments: str, kind: str = "ORM^O01", rules: Orders | None = None) -> Refused:
    with pytest.raises(Refused) as refused:
        read(*segments, kind=kind, rules=rules)
    assert refused.value.hint
    return refused.value


def test_an_order_message_says_which_specimen_waits_for_which_test() -> None:
    incoming = read(
        PID,
        "PV1|1|O|ROOM2^^^RIV||||||||||||||||V9",
        "ORC|NW|P-1001|||||||20240501075500|||12^SMITH^ANN",
        "OBR|1|P-1001||41653-7^Glucose^LN|||20240501080000-0500|||NURSE1||||||12^SMITH^ANN",
        "SPM|1|S-1&EHR^L-1||BLD^^HL70487|||||||||||||20240501080100",
        kind="OML^O21^OML_O21",
    )
    patient = Patient("4711", "DOE", "JANE", date(1970, 1, 2), "F", "RIV&1.2&ISO", "ACC1", "O", "ROOM2^^^RIV", "V9")
    test = OrderedTest("41653-7", "Glucose", "LN", "P-1001", datetime(2024, 5, 1, 12, 55, tzinfo=UTC), "12^SMITH^ANN")
    collected = datetime(2024, 5, 1, 8, 1, tzinfo=CHICAGO)
    expected = Specimen("S-1", patient, (test,), specimen_type="BLD", collected_at=collected, collector="NURSE1")
    assert incoming == Incoming("17", "RIVERSIDE", (OrderMessage("NW", (expected,)),))


@pytest.mark.parametrize(
    ("fields", "label"),
    [(("SPM-2", "OBR-3", "OBR-2"), "S-1"), (("OBR-3", "OBR-2"), "A-7"), (("OBR-2",), "P-1")],
)
def test_the_profile_says_where_the_label_stands(fields: tuple[str, ...], label: str) -> None:
    rules = Orders.model_validate({"specimen_id": fields})
    incoming = read(PID, "ORC|NW|P-1", "OBR|1|P-1|A-7|GLU", "SPM|1|S-1", kind="OML^O21", rules=rules)
    assert [specimen.specimen_id for specimen in specimens(incoming)] == [label]


def test_tests_of_one_specimen_stand_together() -> None:
    """One ORC per OBR, all with the same OBR-2: the number is not unique by test."""
    incoming = read(PID, *[part for code in ("GLU", "A1C", "LIP") for part in ("ORC|NW|4711", f"OBR|1|4711||{code}^{code}")])
    (specimen,) = specimens(incoming)
    assert specimen.specimen_id == "4711"
    assert [(test.placer_order, test.code) for test in specimen.tests] == [("4711", "GLU"), ("4711", "A1C"), ("4711", "LIP")]


def test_one_orc_may_stand_for_many_obr() -> None:
    incoming = read(PID, "ORC|NW|facility-0001", "OBR|1|facility-0001||^^^123^CBC", "OBR|2|facility-0001||^^^456^TSH")
    (specimen,) = specimens(incoming)
    assert [(test.code, test.name) for test in specimen.tests] == [("123", "CBC"), ("456", "TSH")]


def test_an_spm_belongs_to_the_tests_before_it() -> None:
    incoming = read(
        PID,
        *("ORC|NW|1", "OBR|1|1||A", "OBR|2|1||B", "SPM|1|S-1", "OBR|3|1||C", "SPM|1|S-2"),
        *("ORC|NW|2", "SPM|1|S-3", "OBR|1|2||D", "OBR|2|2||E"),
        *("ORC|NW|3", "OBR|1|3||F", "SPM|1|S-4", "SPM|2|S-5"),
        kind="OML^O21",
    )
    found = {specimen.specimen_id: [test.code for test in specimen.tests] for specimen in specimens(incoming)}
    assert found == {"S-1": ["A", "B"], "S-2": ["C"], "S-3": ["D", "E"], "S-4": ["F"], "S-5": ["F"]}


@pytest.mark.parametrize(
    ("stated", "read_as"),
    [
        ("BLD", "BLD"),
        ("UR^Urine^HL70487", "UR"),
        ("258529004^Throat swab^SCT", "SCT:258529004"),
        ("BLD^Blood^HL70487^122554006^Capillary blood^SCT", "BLD/SCT:122554006"),
        ("17^Our own word^L", ""),
    ],
)
def test_a_specimen_type_keeps_the_table_it_is_of(stated: str, read_as: str) -> None:
    incoming = read(PID, "ORC|NW|1", "OBR|1|1||A", f"SPM|1|S-1||{stated}", kind="OML^O21")
    assert [specimen.specimen_type for specimen in specimens(incoming)] == [read_as]


def test_each_control_is_an_act_of_its_own_and_a_cancel_marks_its_specimens() -> None:
    incoming = read(PID, "ORC|CA|1", "OBR|1|1||A", "ORC|NW|2", "OBR|1|2||B", "ORC|XO|3", "OBR|1|3||C", "ORC|SC|4", "OBR|1|4||D")
    assert [act.control for act in incoming.acts if isinstance(act, OrderMessage)] == ["CA", "NW", "XO", "SC"]
    assert [specimen.cancelled for specimen in specimens(incoming)] == [True, False, False, False]


def test_athena_leaves_pid_3_empty_and_the_profile_says_where_the_mrn_is() -> None:
    pid = "PID|1|77^^^Enterprise ID||4711^^^Patient ID|DOE^JANE||19700102|F|||12 Elm\\X0A\\Apt 3"
    order = ("ORC|NW|P-1", "OBR|1|P-1||GLU")
    assert "orders.mrn" in refusal(pid, *order).hint
    (specimen,) = specimens(read(pid, *order, rules=Orders(mrn=("PID-3", "PID-4"))))
    assert (specimen.patient.mrn, specimen.patient.authority) == ("4711", "Patient ID")
    (specimen,) = specimens(read(pid, *order, rules=Orders(mrn=("PID-2",))))
    assert (specimen.patient.mrn, specimen.patient.authority) == ("77", "Enterprise ID")


def test_the_mrn_is_chosen_among_identifiers_by_type_and_never_guessed() -> None:
    order = ("ORC|NW|P-1", "OBR|1|P-1||GLU")
    (specimen,) = specimens(read("PID|1||9^^^SSA^SS~4711^^^RIV^MR||DOE", *order))
    assert specimen.patient.mrn == "4711"
    assert refusal("PID|1||4711^^^RIV^MR~4712^^^RIV^MR||DOE", *order).where == "PID-3"
    assert refusal("PID|1||9^^^SSA^SS||DOE", *order).where == "PID-3"


def test_adt_updates_and_merges_patients() -> None:
    for kind in ("ADT^A01", "ADT^A04^ADT_A01", "ADT^A08"):
        assert read("EVN|A08|20240501", PID, kind=kind).acts == (PatientUpdate(JANE),)
    merged = read("EVN|A40|20240501", PID, "MRG|0815^^^RIV&1.2&ISO^MR", kind="ADT^A40^ADT_A39")
    assert merged.acts == (PatientMerge(JANE, "0815", "RIV&1.2&ISO"),)
    assert refusal("EVN|A40|20240501", PID, kind="ADT^A40").where == "MRG"


@pytest.mark.parametrize(
    ("segments", "where"),
    [
        (("ORC|NW|1", "OBR|1|1||A"), "PID"),
        ((PID, "ORC|NW|1"), "OBR"),
        ((PID, "ORC|NW|1", "OBR|1|1||A", PID.replace("4711", "4712"), "ORC|NW|2", "OBR|1|2||A"), "PID"),
        ((PID, "ORC|ZZ|1", "OBR|1|1||A"), "ORC-1"),
        ((PID, "ORC|NW|1", "OBR|1|1"), "OBR-4"),
        ((PID, "ORC|NW", "OBR|1|||A"), "SPM-2"),
        ((PID, "ORC|NW|1", "OBR|1|1||A|||yesterday"), "OBR-7"),
        ((PID, "ORC|NW|1", f"OBR|1|{'1' * 65}||A"), "OBR-2"),
        ((PID.replace("DOE", "D" * 129), "ORC|NW|1", "OBR|1|1||A"), "PID-5.1"),
        ((PID.replace("19700102", "2.1.1970"), "ORC|NW|1", "OBR|1|1||A"), "PID-7"),
    ],
)
def test_content_that_cannot_be_taken_is_an_ae_with_its_place(segments: tuple[str, ...], where: str) -> None:
    refused = refusal(*segments)
    assert (refused.code, refused.where) == ("AE", where)
    assert "1970" not in str(refused)


@pytest.mark.parametrize("kind", ["ORU^R01", "SIU^S12", "", "ADT^A99"])
def test_another_type_is_an_ar(kind: str) -> None:
    refused = refusal(PID, kind=kind)
    assert isinstance(refused, UnknownMessage)
    assert refused.code == "AR"


@pytest.mark.parametrize(
    "message", [b"", b"MSH", b"MSH|^~\\&", b"GET / HTTP/1.1\r\n\r\n", b"MSH|||||||||||\r", b"MSHaaaaaaaaaaaaa"]
)
def test_what_is_no_hl7_is_an_ar(message: bytes) -> None:
    with pytest.raises(UnknownMessage):
        orders.read(message, Orders(), CHICAGO)


def test_a_null_is_nothing_and_line_feeds_end_segments_too() -> None:
    text = "\n".join([MSH.format("ADT^A08"), 'PID|1||4711^^^""^MR||DOE^""||""|""'])
    assert orders.read(text.encode(), Orders(), CHICAGO).acts == (PatientUpdate(Patient("4711", "DOE")),)


def test_other_delimiters_and_character_sets_are_read() -> None:
    text = "MSH!@*/%!EHR!RIV!!!20240501!!ADT@A08!17!P!2.3!!!!!!8859/1\rPID!1!!4711@@@RIV%1@MR!!M/F/LLER^@JÖRG"
    (update,) = orders.read(text.encode("latin-1"), Orders(), CHICAGO).acts
    assert update == PatientUpdate(Patient("4711", "M!LLER^", "JÖRG", authority="RIV&1"))
    for wrong in (text.replace("8859/1", "KLINGON").encode("latin-1"), text.replace("8859/1", "").encode("latin-1")):
        with pytest.raises(Refused, match="MSH-18"):
            orders.read(wrong, Orders(), CHICAGO)


def test_a_stray_ampersand_is_text() -> None:
    (specimen,) = specimens(read(PID, "ORC|NW|1", "OBR|1|1||CBC^CBC w/ Diff & Plt"))
    assert specimen.tests[0].name == "CBC w/ Diff & Plt"


def test_a_providers_long_tail_is_left_out() -> None:
    (specimen,) = specimens(read(PID, "ORC|NW|1", f"OBR|1|1||A{'|' * 12}12^SMITH^ANN{'^more' * 60}"))
    assert specimen.tests[0].provider == "12^SMITH^ANN"


@given(st.text(max_size=120) | st.binary(max_size=120).map(lambda noise: noise.decode("latin-1")))
@settings(deadline=None, max_examples=150)
def test_hostile_text_is_read_or_refused(noise: str) -> None:
    for text in (noise, MSH.format(noise), "\r".join([MSH.format("ORM^O01"), PID, "ORC|NW|1", f"OBR|1|1||{noise}", noise])):
        for message in (text.encode("utf-8", "surrogatepass"), text.encode("latin-1", "replace")):
            with contextlib.suppress(Refused):  # anything else fails
                assert orders.read(message, Orders(), CHICAGO).acts


def test_patient_text_is_in_no_repr() -> None:
    for hidden in ("4711", "DOE", "JANE", "0815"):
        assert hidden not in repr(read(PID, "MRG|0815", kind="ADT^A40"))
