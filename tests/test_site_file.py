"""The site file is read whole or refused with every mistake at once, each with its line."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartbound.config import site
from chartbound.config.address import parse_address, port_kind
from chartbound.config.errors import ConfigError, ConfigErrors

SERIAL_DRIVER = '''"""A toy meter."""
from typing import Literal
from chartbound.drivers.driver import Contact, Driver, Evidence, Options

class ToyOptions(Options):
    date_order: Literal["mdy", "dmy"]
    control_ids: tuple[str, ...] = ()

def parse(unit, options):
    return []

def connect(options, contact):
    raise NotImplementedError

DRIVER = Driver(name="toy_meter", instrument="Toy", kind="toy", link="toy", transport=("serial", "tcp"),
                evidence=Evidence.THIN, parse=parse, connect=connect, options=ToyOptions)
'''
FILE_DRIVER = '''"""A toy cart."""
from chartbound.drivers.driver import Driver, Evidence

def parse(unit, options):
    return []

DRIVER = Driver(name="toy_cart", instrument="Toy", kind="toy", link="files", transport=("files",),
                evidence=Evidence.THIN, parse=parse)
'''
TCP_DRIVER = SERIAL_DRIVER.replace("toy_meter", "toy_lan").replace('("serial", "tcp")', '("tcp",)')

WHOLE = """\
[site]
facility = "RIVERSIDE"
timezone = "America/Chicago"
state_dir = "state"
drivers_folder = "drivers"

[[instruments]]
name = "meter-1"
driver = "toy_meter"
port = "usb:0403:6001:A1"
[instruments.options]
date_order = "mdy"
control_ids = ["QC*"]

[[instruments]]
name = "cart-1"
driver = "toy_cart"
folder = "drop/cart"
mode = "copy"

[orders]
listen = "127.0.0.1:2576"

[[destinations]]
name = "ehr"
address = "[::1]:2575"
retry_seconds = [1, 60]
instruments = ["meter-1"]
tests = ["4548-4"]

[[reference_labs]]
name = "QUEST"
account = 12
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "toy_meter.py").write_text(SERIAL_DRIVER)
    (tmp_path / "drivers" / "toy_cart.py").write_text(FILE_DRIVER)
    (tmp_path / "drivers" / "toy_lan.py").write_text(TCP_DRIVER)
    return tmp_path


def load(folder: Path, text: str) -> site.Site:
    path = folder / "site.toml"
    path.write_text(text, encoding="utf-8")
    return site.load(path)


def mistakes(folder: Path, text: str) -> tuple[ConfigError, ...]:
    with pytest.raises(ConfigErrors) as caught:
        load(folder, text)
    return caught.value.errors


def only_mistake(folder: Path, old: str, new: str) -> ConfigError:
    assert old in WHOLE
    text = WHOLE.replace(old, new, 1)
    errors = mistakes(folder, text)
    assert len(errors) == 1, errors
    return errors[0]


def test_a_whole_file_says_what_stands_where(folder: Path) -> None:
    read = load(folder, WHOLE)
    meter, cart = read.instruments
    assert (read.facility, read.zone, read.journal_days) == ("RIVERSIDE", ZoneInfo("America/Chicago"), 90)
    assert read.state_dir == folder / "state"
    assert read.store.url == "sqlite"
    assert meter.loaded.name == meter.driver == "toy_meter"
    assert meter.options.control_ids == ("QC*",)
    assert meter.port == "usb:0403:6001:A1"
    assert (meter.claim_minutes, meter.poll_seconds, meter.confirm_claims) == (15, 10, True)
    assert cart.folder == folder / "drop" / "cart"
    assert (cart.mode, cart.port, cart.incomplete_minutes) == ("copy", None, 15)
    (ehr,) = read.destinations
    assert (ehr.host, ehr.port, ehr.tls, ehr.retry_seconds) == ("::1", 2575, None, (1.0, 60.0))
    assert ehr.loaded.version == "2.5.1"
    assert read.reference_labs[0].name == "QUEST"
    assert read.matching.order_window_hours == 24
    assert read.instrument("cart-1") is cart
    assert read.path == folder / "site.toml"


def test_a_small_file_has_the_documented_defaults(folder: Path) -> None:
    read = load(folder, '[site]\nfacility="A"\ntimezone="UTC"\n[[destinations]]\nname="ehr"\naddress="h:1"\n')
    assert read.state_dir == folder / "state"
    assert read.destinations[0].profile == "default"
    assert read.destinations[0].ack_timeout_seconds == 30
    assert (read.orders.listen, read.orders.folder, read.web.address) == (None, None, "127.0.0.1:8470")


def test_six_mistakes_are_six_errors_each_on_its_line(folder: Path) -> None:
    text = """\
[site]
facility = "RIVERSIDE"
timezone = "America/Chicgao"
drivers_folder = "drivers"

[[instruments]]
name = "meter-1"
driver = "toy_meter"
port = "COM4"
buad = 9600
claim_minutes = "15"
[instruments.options]
date_order = "ymd"

[[destinations]]
name = "ehr"
address = "127.0.0.1"

[[instruments]]
name = "cart-1"
driver = "toy_crat"
folder = "drop"
"""
    errors = mistakes(folder, text)
    assert [(error.line, error.key) for error in errors] == [
        (3, "site.timezone"),
        (10, "instruments[0].buad"),
        (11, "instruments[0].claim_minutes"),
        (13, "instruments[0].options.date_order"),
        (17, "destinations[0].address"),
        (21, "instruments[1].driver"),
    ]
    printed = str(errors[1])
    assert printed == f"{folder / 'site.toml'}:10: instruments[0].buad: is not a key here; did you mean baud?"
    assert errors[0].hint == "did you mean America/Chicago?"
    assert "toy" not in errors[2].what


def test_a_syntax_error_has_its_line(folder: Path) -> None:
    (error,) = mistakes(folder, '[site]\nfacility = "A"\ntimezone = UTC\n')
    assert error.line == 3
    (error,) = mistakes(folder, '[site]\nfacility = "A')
    assert error.line == 2
    (error,) = mistakes(folder, '[site]\nfacility = "A"\nfacility = "B"\n')
    assert (error.line, error.hint) == (3, "this key or table stands twice")
    (error,) = mistakes(folder, '[site]\nstate_dir = "C:\\Users"\n')
    assert "single quotes" in error.hint


def test_a_file_that_is_not_there_or_not_text_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        site.load(tmp_path / "none.toml")
    assert "cannot be read" in caught.value.errors[0].what
    (tmp_path / "site.toml").write_bytes(b"# ok\n# \xff\n")
    with pytest.raises(ConfigErrors) as caught:
        site.load(tmp_path / "site.toml")
    assert caught.value.errors[0].line == 2


def test_a_missing_section_or_key_is_said_on_the_line_of_its_table(folder: Path) -> None:
    assert {(error.line, error.key) for error in mistakes(folder, "")} == {(1, "site"), (1, "destinations")}
    assert only_mistake(folder, 'facility = "RIVERSIDE"\n', "").key == "site.facility"
    error = only_mistake(folder, 'port = "usb:0403:6001:A1"\n', "")
    assert (error.line, error.key, error.what) == (7, "instruments[0].port", "is missing")
    assert "COM4" in error.hint
    error = only_mistake(folder, '[instruments.options]\ndate_order = "mdy"\ncontrol_ids = ["QC*"]\n', "")
    assert (error.line, error.key) == (7, "instruments[0].options.date_order")
    error = only_mistake(folder, 'date_order = "mdy"\n', "")
    assert (error.line, error.what) == (11, "is missing")


@pytest.mark.parametrize(
    ("old", "new", "line", "what", "hint"),
    [
        ('timezone = "America/Chicago"', "timezone = 5", 3, "must be text", "America/Chicago"),
        ('facility = "RIVERSIDE"', 'facility = ""', 2, "must not be empty", "MSH-4"),
        ('facility = "RIVERSIDE"', 'facility = " A"', 2, "space", ""),
        ('state_dir = "state"', "journal_days = 0", 4, "at least 1", "days"),
        ('state_dir = "state"', "journal_days = 1.5", 4, "whole number", "days"),
        ('state_dir = "state"', "order_window_hours = 5", 4, "is not a key here", "it belongs to matching"),
        ('state_dir = "state"', 'state_dir = ""', 4, "must not be empty", ""),
        ('drivers_folder = "drivers"', 'drivers_folder = "drivers"\nzzz = 1', 6, "is not a key here", "known here: facility"),
        ('date_order = "mdy"', 'dateorder = "mdy"\ndate_order = "mdy"', 12, "is not a key here", "did you mean date_order?"),
        ('control_ids = ["QC*"]', "control_ids = [1]", 13, "must be text", ""),
        (
            'driver = "toy_meter"',
            'driver = "clinitek_statsu"\n#',
            9,
            "no driver clinitek_statsu",
            "did you mean clinitek_status?",
        ),
        ('driver = "toy_meter"', 'driver = "../drivers/toy_meter"\n#', 9, "no driver ../drivers/toy_meter", ""),
        ('port = "usb:0403:6001:A1"', 'port = "usb:403:6001"', 10, "four hexadecimal digits", "COM4"),
        ('port = "usb:0403:6001:A1"', 'port = "ftp://a:1"', 10, "ftp:// is not a kind of port", "COM4"),
        ('port = "usb:0403:6001:A1"', 'port = "socket://a"', 10, "host:port", "COM4"),
        ('port = "usb:0403:6001:A1"', 'port = "socket://a:70000"', 10, "1 to 65535", "COM4"),
        ('port = "usb:0403:6001:A1"', 'port = "serial"', 10, "is not a port", "COM4"),
        ('port = "usb:0403:6001:A1"', 'port = "COM4"\nbaud = "9600"', 11, "whole number", "9600"),
        ('port = "usb:0403:6001:A1"', 'port = "COM4"\nbaud = true', 11, "whole number", "9600"),
        ('port = "usb:0403:6001:A1"', 'port = "COM4"\nfolder = "x"', 11, "heard on a port", "port"),
        ('name = "cart-1"', 'name = "meter-1"', 16, "another instrument is called meter-1", ""),
        ('folder = "drop/cart"', 'port = "COM4"\nfolder = "drop"', 18, "reads files", "folder"),
        ('mode = "copy"', 'mode = "delete"', 19, "'move' or 'copy'", "copy"),
        ('mode = "copy"', "confirm_claims = 1", 19, "true or false", ""),
        ('listen = "127.0.0.1:2576"', 'listen = "2576"', 22, "host:port", "127.0.0.1:2575"),
        ("retry_seconds = [1, 60]", "retry_seconds = [60, 1]", 27, "the first and the longest", ""),
        ("retry_seconds = [1, 60]", "retry_seconds = [1]", 27, "two numbers", "[1, 60]"),
        ("retry_seconds = [1, 60]", 'retry_seconds = [1, "x"]', 27, "must be a number", "[1, 60]"),
        ("retry_seconds = [1, 60]", 'profile = "defualt"', 27, "no profile defualt", "did you mean default?"),
        ("retry_seconds = [1, 60]", 'tls = { ca = "none.pem" }', 27, "no such file", "none.pem"),
        ("retry_seconds = [1, 60]", 'tls = "yes"', 27, "must be a table", "false"),
        ('instruments = ["meter-1"]', 'instruments = ["meter-2"]', 28, "no instrument meter-2", "did you mean meter-1?"),
        ('name = "QUEST"', 'title = "QUEST"', 31, "is missing", "reference_lab"),
        ("[orders]", "[matching]\nunsolicited = true\n[orders]", 22, "not offered yet", "false"),
        ("[orders]", "[store]\nurl = 'mysql://x'\n[orders]", 22, "no kind of store", "postgresql://"),
        ("[orders]", "[[web]]\n[orders]", 21, "must be a table", ""),
        ("[orders]", "[[matchin]]\n[orders]", 21, "is not a key here", "did you mean matching?"),
    ],
)
def test_each_mistake_has_its_line_and_a_hint(folder: Path, old: str, new: str, line: int, what: str, hint: str) -> None:
    text = WHOLE.replace(old, new, 1)
    errors = [error for error in mistakes(folder, text) if what in error.what]
    assert len(errors) == 1, mistakes(folder, text)
    assert errors[0].line == line
    assert hint in errors[0].hint


def test_two_instruments_do_not_share_a_wire(folder: Path) -> None:
    second = '[[instruments]]\nname = "{0}"\ndriver = "toy_meter"\nport = "{1}"\noptions = {{ date_order = "mdy" }}\n'
    (error,) = mistakes(folder, second.format("meter-2", "usb:0403:6001:A1") + WHOLE)
    assert (error.key, error.what) == ("instruments[1].port", "belongs to meter-2 already")
    (error,) = mistakes(folder, WHOLE.replace("[orders]", '[orders]\nfolder = "drop/cart"'))
    assert (error.key, error.what) == ("orders.folder", "belongs to cart-1 already")
    (error,) = mistakes(folder, WHOLE.replace("usb:0403:6001:A1", "listen://127.0.0.1:2576"))
    assert (error.key, error.what) == ("orders.listen", "belongs to meter-1 already")
    free = second.format("meter-2", "listen://127.0.0.1:0") + second.format("meter-3", "listen://127.0.0.1:0")
    assert len(load(folder, free + WHOLE).instruments) == 4


def test_a_serial_port_does_not_fit_an_instrument_on_the_network(folder: Path) -> None:
    text = WHOLE.replace('driver = "toy_meter"', 'driver = "toy_lan"')
    assert "has no serial port" in mistakes(folder, text)[0].what
    assert load(folder, text.replace("usb:0403:6001:A1", "listen://0.0.0.0:0")).instruments[0].driver == "toy_lan"


def test_a_driver_file_of_the_site_that_fails_is_said_and_does_not_hide_the_rest(folder: Path) -> None:
    (folder / "drivers" / "toy_cart.py").write_text("raise RuntimeError('half written')")
    errors = mistakes(folder, WHOLE.replace("[1, 60]", "[1]"))
    assert [error.line for error in errors] == [17, 27]
    assert "half written" in errors[0].what


def test_a_secret_comes_from_the_environment_or_a_file_and_is_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARTBOUND_TEST_STORE", "postgresql://u:geheim@h/db")
    read = load(folder, WHOLE + '[store]\nurl = "env:CHARTBOUND_TEST_STORE"\n')
    assert read.store.url == "postgresql://u:geheim@h/db"
    assert "geheim" not in repr(read)
    (folder / "store.txt").write_text("oracle://u:geheim@h/db\n")
    (error,) = mistakes(folder, WHOLE + '[store]\nurl = "file:store.txt"\n')
    assert error.line == WHOLE.count("\n") + 2
    assert "geheim" not in str(error)
    (error,) = mistakes(folder, WHOLE + '[store]\nurl = "env:CHARTBOUND_TEST_NONE"\n')
    assert "CHARTBOUND_TEST_NONE is not set" in error.what


def test_a_profile_beside_the_site_file_is_read_and_its_mistakes_are_said_in_its_own_lines(folder: Path) -> None:
    text = WHOLE.replace("retry_seconds = [1, 60]", 'profile = "ours"')
    (folder / "ours.toml").write_text('ack_means = "filed"\n')
    assert load(folder, text).destinations[0].loaded.ack_means == "filed"
    (folder / "ours.toml").write_text('# our EHR\nack_means = "fild"\nack_mean = "filed"\n')
    assert [(error.file.name, error.line, error.key) for error in mistakes(folder, text)] == [
        ("ours.toml", 2, "ack_means"),
        ("ours.toml", 3, "ack_mean"),
        ("site.toml", 27, "destinations[0].profile"),
    ]


def test_tls_takes_files_beside_the_site_file(folder: Path) -> None:
    (folder / "ca.pem").write_text("")
    read = load(folder, WHOLE.replace("retry_seconds = [1, 60]", 'tls = { ca = "ca.pem" }'))
    assert read.destinations[0].tls is not None
    assert read.destinations[0].tls.ca == folder / "ca.pem"
    assert load(folder, WHOLE.replace("retry_seconds = [1, 60]", "tls = true")).destinations[0].tls is not None
    assert load(folder, WHOLE.replace("retry_seconds = [1, 60]", "tls = false")).destinations[0].tls is None
    assert "certificate" in only_mistake(folder, "retry_seconds = [1, 60]", 'tls = { key = "ca.pem" }').what


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(folder: Path) -> None:
    (folder / "site.toml").write_bytes(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())
    assert site.load(folder / "site.toml").facility == "RIVERSIDE"


VALUES = st.recursive(
    st.one_of(st.integers(-5, 99999), st.booleans(), st.sampled_from(['"x"', '""', "1.5", "1979-05-27", "inf"])).map(
        lambda value: str(value).lower() if isinstance(value, bool) else str(value)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda parts: f"[{', '.join(parts)}]"), inner.map(lambda part: f"{{ name = {part} }}")
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_value_at_any_key_is_taken_or_refused_on_its_own_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_site"
    if not folder.exists():
        (folder / "drivers").mkdir(parents=True)
        (folder / "drivers" / "toy_meter.py").write_text(SERIAL_DRIVER)
        (folder / "drivers" / "toy_cart.py").write_text(FILE_DRIVER)
    lines = WHOLE.replace('instruments = ["meter-1"]\n', "").splitlines()  # or a new name would be wrong there
    keys = [number for number, line in enumerate(lines) if " = " in line and "drivers_folder" not in line]
    number = data.draw(st.sampled_from(keys))
    lines[number] = lines[number].partition(" = ")[0] + " = " + data.draw(VALUES)
    try:
        load(folder, "\n".join(lines))
        refused = None
    except ConfigErrors as caught:
        refused = [error.line for error in caught.errors]
    assert refused is None or number + 1 in refused


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200) | st.text("[]{}=.,\"'#\n\\ ax1", max_size=60).map(str.encode))
def test_any_bytes_are_a_site_or_mistakes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigErrors) as caught:
        site.load(path)
    assert caught.value.errors


def test_addresses_are_taken_apart() -> None:
    assert (parse_address("ehr.local:2575").host, parse_address("[fe80::1]:9").host) == ("ehr.local", "fe80::1")
    assert parse_address("0.0.0.0:0", listening=True).port == 0
    for bad in ("a", ":1", "a:", "a:-1", "a:0", "::1:5", "a b:1", "a:1٣"):
        with pytest.raises(ValueError, match="port"):
            parse_address(bad)
    assert [port_kind(each) for each in ("com12", "/dev/ttyS0", "rfc2217://h:1", r"\\.\COM20")] == [
        "device",
        "device",
        "rfc2217",
        "device",
    ]
