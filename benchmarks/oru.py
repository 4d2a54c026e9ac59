"""How long building an ORU with 10 observations takes, beside the same text put together by a bare escaping join.

The yardstick J knows every field already and only escapes and joins: no look at a value, no profile, no time formatted.
`measure()` alternates the two in one run, so that a machine's mood falls on both, and gives the median of the ratios.
"""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import median
from time import perf_counter

from chartbound.hl7 import conformance, oru
from chartbound.hl7.chart import Patient
from chartbound.hl7.oru import ChartObservation, ChartOrder, ChartSpecimen, OruContent
from chartbound.hl7.profile import Profile, Site

AT = datetime(2024, 5, 1, 13, 15, 30, tzinfo=UTC)
ANALYTES = ("GLU", "BIL", "KET", "SG", "BLO", "pH", "PRO", "URO", "NIT", "LEU")


def content() -> OruContent:
    """A urinalysis of ten pads, every field of the observations filled."""
    observations = tuple(
        ChartObservation(
            value_type="NM",
            value=f"{number}.05",
            loinc=f"579{number}-3",
            loinc_name="Glucose [Mass/volume] in Urine by Automated test strip",
            vendor_code=analyte,
            vendor_name=analyte,
            unit="mg/dL",
            reference_range="0-15",
            flags=("H",),
            analysed_at=AT,
            operator="OP7",
            device_model="Clinitek Status",
            device_serial="7350-1",
        )
        for number, analyte in enumerate(ANALYTES)
    )
    return OruContent(
        control_id="9F3K2A1",
        sent_at=AT,
        sending_facility="RIVERSIDE",
        patient=Patient("4711", "DOE", "JANE", AT.date(), "F", "RIV", "A1", "O", "ROOM2", "V1"),
        order=ChartOrder(
            filler_order="F-1", placer_order="P-1", code="UA", observed_at=AT, reported_at=AT, provider="12^SMITH^ANN"
        ),
        observations=observations,
        specimen=ChartSpecimen(specimen_id="S-1", specimen_type="UR", collected_at=AT),
    )


PROFILE = Profile(performing_site=Site(name="Riverside Lab", clia="05D0123456", street="1 Main St", city="Riverside"))


def plain_join(segments: list[list[list[str]]]) -> bytes:
    """J: components escaped and joined into fields, fields into segments."""

    def escaped(text: str) -> str:
        return (
            text.replace("\\", "\\E\\").replace("|", "\\F\\").replace("^", "\\S\\").replace("~", "\\R\\").replace("&", "\\T\\")
        )

    return "".join(
        "|".join(["^".join([escaped(component) for component in field]) for field in segment]) + "\r" for segment in segments
    ).encode()


def measure(rounds: int = 15, repeats: int = 200) -> dict[str, float]:
    """`J`, `build` and `shape` (the key of its form) in seconds a message, `ratio` = build / J; medians over the rounds."""
    said = content()
    segments = [
        [field.split("^") for field in segment.split("|")]
        for segment in oru.build(said, PROFILE).decode().split("\r")
        if segment
    ]
    message = oru.build(said, PROFILE)
    joins, builds, shapes = [], [], []
    for _ in range(rounds):
        started = perf_counter()
        for _ in range(repeats):
            plain_join(segments)
        between = perf_counter()
        for _ in range(repeats):
            oru.build(said, PROFILE)
        built = perf_counter()
        for _ in range(repeats):
            conformance.shape(message)
        ended = perf_counter()
        joins.append((between - started) / repeats)
        builds.append((built - between) / repeats)
        shapes.append((ended - built) / repeats)
    ratio = median(build / join for build, join in zip(builds, joins, strict=True))
    return {"J": median(joins), "build": median(builds), "shape": median(shapes), "ratio": ratio}


if __name__ == "__main__":
    figures = measure()
    times = "   ".join(f"{name} {figures[name] * 1e6:.0f} µs" for name in ("J", "build", "shape"))
    print(f"{times}   build/J {figures['ratio']:.2f}   (goal: ≤ 2)")
