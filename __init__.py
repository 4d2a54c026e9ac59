"""chartbound takes a point-of-care result from the instrument's bytes to the EHR's acknowledgment.

The path of one result, file by file. Data goes one way:

    port ── bytes ──▶ link ── unit ──▶ journal │ parse ── report ──▶ matching ──▶ charting ──▶ store + outbox │ delivery ──▶ EHR
                                        sync ①                                                       commit ②

    agent/ports.py            opens the wire: a serial port, a TCP connection; agent/folders.py takes dropped files instead
    drivers/lis1a.py          a link finds whole, checked units in the bytes and says what to answer (drivers/link.py: the shape
                              of all; drivers/line_text.py and drivers/host_driven.py are others)
    agent/intake.py           joins wire and link; the ACK that makes an instrument forget waits for
    agent/journal.py          what was heard, synced to the disk ① (agent/journal_file.py: its file)
    agent/judge.py            asks which units of the journal have no verdict, and has each settled in one transaction:
    agent/verdict.py          driver.parse, the reports' identity, matching, and what follows from it ②
    drivers/dca_vantage.py    one file an instrument: bytes → drivers/report.py, in the instrument's own words
    agent/readings.py         adds the true time and the rows of config/catalog.py
    agent/worklist.py         fetches what bears on it: specimens, claims, what people said
    agent/matching.py         pure: a match on two agreeing pieces of evidence, or a hold (agent/evidence.py: what counts as
                              evidence, agent/fitting.py: what fits)
    agent/filing.py           writes the verdict to the store; for a match
    agent/charting.py         translates report and order into the chart's words (hl7/chart.py), and
    hl7/oru.py                writes the ORU^R01 as hl7/profile.py says that this EHR wants it
    agent/shapes.py           lets every new form of message be judged by hl7/conformance.py before the first of it is queued
    agent/delivery.py         takes the outbox to the EHR, one at a time, by agent/mllp_wire.py; hl7/ack.py reads the answers
    agent/ledger.py           compares what was heard with what was decided

Beside the path:

    agent/orders.py           orders become labelled specimens in the register: agent/order_listener.py hears those of the EHR,
                              hl7/orders.py reads, agent/order_messages.py acts on them; agent/order_folder.py takes files
    agent/acts.py             what people do with results and specimens; agent/audit.py keeps who did what
    agent/store/schema.py     the tables of what was decided, with the queries beside it; agent/writer.py alone writes
    agent/runtime.py          builds the agent from config/site.py and owns every thread; agent/host.py is the PC below it
    agent/status.py           what the agent is doing, and what waits for a person
    agent/cli.py              the commands; agent/cli_acts.py those by which people act; agent/show.py what they print
    agent/check.py            examines a site before a patient does; agent/recorder.py writes down and reads back a wire
    simulators/instrument.py  instruments, simulators/ehr.py an EHR, simulators/bench.py the demo

Who may import whom is a table in CONTRIBUTING.md, and tests/test_layers.py holds it.
"""

__version__ = "0.1.0"
