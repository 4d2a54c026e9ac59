"""EKG carts that drop one file for each tracing into a folder: Philips PageWriter and others that write Philips Sierra XML.

    <restingecgdata xmlns="http://www3.medical.philips.com" status="Confirmed">…<heartrate>64</heartrate>…

At the cart, or at the server behind it (TraceMasterVue, IntelliSpace ECG): set up an XML export, version 1.03 or 1.04, to a
shared folder, one file a tracing, and name that folder in the site file as `folder`. Scan or type the order's label into the
field of the order number, and the patient's id into the id field, before recording: an EKG that carries neither is held for a
person. Set the cart's clock; it is sent without a zone. Where another program imports the same files, use `mode = "copy"`.

What is sent: rate ("bpm"), PR, QRS, QT and QTc ("ms") and the P, QRS and T axes in the frontal plane ("deg"), under the names
of the form's own tags: heartrate, print, qrsdur, qtint, qtcb (Bazett), qtcf (Fridericia), qtc (1.03, formula not stated),
pfrontaxis, qrsfrontaxis, tfrontaxis. The form fixes these units and states none, so the words above are ours. Statements,
severity and signature line go as text. A tracing is final once the file's status is Confirmed and its signature line does not
say unconfirmed or preliminary; before that it is preliminary. A value is never judged here: whether it is plausible is a row
of the catalog.

What is not sent: the tracing itself, measurements of single leads, rates and durations of 0, what the cart calls
Indeterminate or Failed (it becomes a remark), and QTc by Framingham or Hodges.

Some carts fill the patient id with an incident number of their own where nobody typed one, so an id alone proves nothing.
An EKG whose machine, report label or id says demo or simulator is of unknown kind and is held; ids that your staff use for
test tracings go into `control_ids`. How a cart marks such tracings is not documented: that rule is a precaution.

Other forms (GE MUSE, HL7 aECG, Mortara, Schiller, SCP-ECG, DICOM, PDF) are recognised, not read, and shown as such.
Source: real files of versions 1.03 (HeartStart MRx), 1.04 and 1.04.01 (PageWriter Touch and TC).
"""

from __future__ import annotations

from typing import Literal

from . import driver
from .driver import Driver, Evidence, UnreadableReport
from .ekg_formats import philips, sniff
from .report import Report


class Options(driver.Options):
    """What the clinic has decided on the use of the cart's fields."""

    patient_id_field: Literal["patientid", "MRN", "uniquepatientid"] = "patientid"  # where the cart keeps the MRN
    order_number_field: Literal["ordernumber", "uniqueorderid"] = "ordernumber"  # where it keeps the order's label
    control_ids: tuple[str, ...] = ()  # patterns of patient ids that mean a test tracing: "TEST*", "QC?"


def parse(unit: bytes, options: Options) -> list[Report]:
    """The one report of an EKG file's bytes. Raises `UnreadableReport`, naming the form where it is known but not read."""
    form, root = sniff.recognise(unit)
    if form is not sniff.Format.PHILIPS or root is None:
        hint = f"this is an EKG as {form}, a form that is not read yet; set the cart or its server to export Philips XML"
        raise UnreadableReport("the file", hint)
    return [philips.read(root, options.patient_id_field, options.order_number_field, options.control_ids)]


DRIVER = Driver(
    name="ekg",
    instrument="EKG carts: Philips PageWriter (Sierra XML 1.03, 1.04)",
    kind="EKG",
    link="files",
    transport=("files",),
    evidence=Evidence.CAPTURED,
    parse=parse,
    complete=sniff.is_whole,
    options=Options,
)
