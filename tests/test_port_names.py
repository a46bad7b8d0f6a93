"""Port names: netmap's own table, what `parse` adds to it, and where it points when a name is wrong."""

import csv
import errno
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from raceway.ports.names import (
    Pipe,
    PortFlag,
    PortKind,
    PortName,
    PortNameError,
    RegistrationMode,
    decode_netmap,
    parse,
)

TABLE = Path(__file__).parent / "data" / "netmap-port-names.tsv"
with TABLE.open(encoding="ascii", newline="") as table:
    ROWS = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))

ERRORS = {"0": 0, "EINVAL": errno.EINVAL, "-EINVAL": -errno.EINVAL}
MODES = {"0": None} | {mode.name: mode for mode in RegistrationMode}


def flags_of(text: str) -> PortFlag:
    flags = PortFlag(0)
    for name in [] if text == "0" else text.split("|"):
        flags |= PortFlag[name]
    return flags


def fault_of(name: str) -> PortNameError:
    with pytest.raises(PortNameError) as caught:
        parse(name)
    assert type(caught.value) is PortNameError
    return caught.value


def parse_or_fault(name: str) -> PortName | PortNameError:
    try:
        return parse(name)
    except PortNameError as fault:
        return fault


# netmap's own judgement


def test_netmaps_table_is_whole() -> None:
    assert len(ROWS) == 39


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] or "(empty)" for row in ROWS])
def test_netmaps_decoder_gives_every_row_of_netmaps_table(row: dict[str, str]) -> None:
    decoded = decode_netmap(row["name"])
    assert decoded.port == row["port"]
    assert decoded.unparsed_suffix == row["unparsed_suffix"]
    assert decoded.error == ERRORS[row["error"]]
    assert decoded.mode is MODES[row["mode"]]
    assert decoded.ring == int(row["ring"])
    assert decoded.flags == flags_of(row["flags"])
    assert (decoded.fault is None) == (decoded.error == 0)


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] or "(empty)" for row in ROWS])
def test_parse_agrees_with_netmaps_table_but_for_the_plain_interface(row: dict[str, str]) -> None:
    if row["name"] == "eth0":
        assert parse("eth0") == parse("netmap:eth0")
    elif row["error"] != "0":
        fault_of(row["name"])
    elif (
        row["name"] == "netmap:eth0@netmap:lo/R"
    ):  # to netmap's options "netmap" is an option with the key "lo/R"
        assert fault_of(row["name"]).position == len("netmap:eth0@netmap:lo")
    else:
        port = parse(row["name"])
        assert (port.port, port.unparsed_suffix) == (row["port"], row["unparsed_suffix"])
        assert (port.mode, port.ring) == (MODES[row["mode"]], int(row["ring"]))
        assert port.flags == flags_of(row["flags"])


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("netmap:eth0-99999999999999999999", -errno.ERANGE),  # strtol's own error comes through
        (
            "netmap:eth0@99999999999999999999/q",
            -errno.ERANGE,
        ),  # even when it is another character that is wrong
        ("netmap:eth0-" + "9" * 5000, -errno.ERANGE),
        ("netmap:eth0-4095", -errno.EINVAL),
        ("netmap:eth0@0", -errno.EINVAL),
        ("netmap:" + "a" * 64, errno.EINVAL),
        ("netmap:\N{ARABIC-INDIC DIGIT ONE}", errno.EINVAL),
        ("netmap:eth0-\N{ARABIC-INDIC DIGIT ONE}", -errno.EINVAL),
    ],
)
def test_netmaps_decoder_reports_the_errno_that_c_would(name: str, error: int) -> None:
    assert decode_netmap(name).error == error


@pytest.mark.parametrize(
    ("name", "memory_id", "cut_at"),
    [
        ("netmap:eth0@65535", 65535, None),
        ("netmap:eth0@65536", 0, 12),
        ("netmap:eth0@65538/x@2", 2, 12),
        ("netmap:eth0@65536@65537", 1, 12),
        ("netmap:eth0@99999999999999999999", 65535, 12),
    ],
)
def test_netmap_cuts_a_memory_id_to_16_bits_and_parse_refuses(
    name: str, memory_id: int, cut_at: int | None
) -> None:
    decoded = decode_netmap(name)
    assert (decoded.error, decoded.memory_id, decoded.truncated_at) == (0, memory_id, cut_at)
    if cut_at is None:
        assert parse(name).memory_id == memory_id
    else:
        assert fault_of(name).position == cut_at


def test_netmap_limits_a_name_to_63_characters() -> None:
    assert decode_netmap("netmap:" + "a" * 63).error == 0
    assert decode_netmap("netmap:" + "a" * 64).error == errno.EINVAL
    assert decode_netmap("vale0:" + "a" * 57).error == 0
    assert decode_netmap("vale0:" + "a" * 58).error == errno.EINVAL


# what parse makes of a name


def test_everything_at_once() -> None:
    port = parse("netmap:eth0-2/Rx@3@conf:rings=4,tx-slots=0512@xdp:mode=driver,force@busy")
    assert (port.kind, port.port) == (PortKind.NETMAP, "eth0")
    assert (port.mode, port.ring) == (RegistrationMode.NR_REG_ONE_NIC, 2)
    assert port.flags == PortFlag.NR_RX_RINGS_ONLY | PortFlag.NR_EXCLUSIVE
    assert port.memory_id == 3
    assert port.unparsed_suffix == "@conf:rings=4,tx-slots=0512@xdp:mode=driver,force@busy"
    assert port.options == {
        "conf": {"rings": "4", "tx_slots": "512"},
        "xdp": {"mode": "driver", "force": "force"},
        "busy": {},
    }
    assert port.name.startswith("netmap:eth0-2/Rx@3")
    assert port.pipe is None
    assert port.path is None
    assert port.device is None


@pytest.mark.parametrize(
    ("suffix", "mode", "ring"),
    [
        ("", RegistrationMode.NR_REG_ALL_NIC, 0),
        ("^", RegistrationMode.NR_REG_SW, 0),
        ("^3", RegistrationMode.NR_REG_ONE_SW, 3),
        ("*", RegistrationMode.NR_REG_NIC_SW, 0),
        ("-0", RegistrationMode.NR_REG_ONE_NIC, 0),
        ("-4094", RegistrationMode.NR_REG_ONE_NIC, 4094),
        ("-007", RegistrationMode.NR_REG_ONE_NIC, 7),
    ],
)
def test_rings(suffix: str, mode: RegistrationMode, ring: int) -> None:
    for prefix in ("", "netmap:"):
        port = parse(f"{prefix}eth0{suffix}")
        assert (port.kind, port.port, port.mode, port.ring) == (PortKind.NETMAP, "eth0", mode, ring)


@pytest.mark.parametrize(
    ("name", "kind", "pipe"),
    [
        ("netmap:x{1", PortKind.NETMAP, Pipe("x", "{", "1")),
        ("x}in", PortKind.NETMAP, Pipe("x", "}", "in")),
        ("vale0:a{1", PortKind.VALE, Pipe("vale0:a", "{", "1")),
        ("eth0.100{a_b-1", PortKind.NETMAP, Pipe("eth0.100", "{", "a_b")),
    ],
)
def test_pipes(name: str, kind: PortKind, pipe: Pipe) -> None:
    port = parse(name)
    assert (port.kind, port.pipe) == (kind, pipe)
    assert port.port == pipe.base + pipe.end + pipe.id


def test_vlan_interface_has_a_dot_in_parse_and_not_in_netmaps_table() -> None:
    assert parse("eth0.100-1").port == "eth0.100"
    assert decode_netmap("netmap:eth0.100").error == errno.EINVAL


@pytest.mark.parametrize(
    "path", ["a@b:c/{d}.pcap", "-", " ", "a\nb", "@conf:rings=4", "\udcff", "pcap:x", "日本"]
)
def test_capture_file_may_have_any_path(path: str) -> None:
    port = parse(f"pcap:{path}")
    assert (port.kind, port.path, port.port, dict(port.options)) == (PortKind.PCAP, path, path, {})
    assert str(port) == f"pcap:{path}"


def test_tap_and_null() -> None:
    assert parse("tap:").device == ""
    assert parse("tap:my-tap.0@mtu=9000").device == "my-tap.0"
    assert parse("tap:@mtu=9000").options == {"mtu": {"": "9000"}}
    assert parse("null:").kind is PortKind.NULL
    assert parse("null") == parse("null:")  # as netmap's packet generator writes it
    assert parse("null:@conf:slots=64").options == {"conf": {"slots": "64"}}
    assert parse("null:").path is None
    assert parse("null:").device is None


@pytest.mark.parametrize(
    ("text", "option", "keys"),
    [
        ("@share=netmap:lo", "share", {"port": "netmap:lo"}),
        ("@share:port=vale0:a{1", "share", {"port": "vale0:a{1"}),
        ("@extmem=/dev/shm/a, b=c", "extmem", {"file": "/dev/shm/a, b=c"}),
        (
            "@extmem:file=/x,if-num=1,if-size=2,ring-num=3,ring-size=4,buf-num=5,buf-size=6",
            "extmem",
            {
                "file": "/x",
                "if_num": "1",
                "if_size": "2",
                "ring_num": "3",
                "ring_size": "4",
                "buf_num": "5",
                "buf_size": "6",
            },
        ),
        (
            "@conf:rings=1,host-rings=2,slots=3,tx-rings=4,rx-rings=5",
            "conf",
            {"rings": "1", "host_rings": "2", "slots": "3", "tx_rings": "4", "rx_rings": "5"},
        ),
        (
            "@conf:host_tx_rings=6,host-rx_rings=7,tx-slots=8,rx-slots=4294967295",
            "conf",
            {"host_tx_rings": "6", "host_rx_rings": "7", "tx_slots": "8", "rx_slots": "4294967295"},
        ),
        ("@conf:rings=1@conf:slots=2", "conf", {"rings": "1", "slots": "2"}),
        ("@conf:buffer-size=4096,extra-buffers=9", "conf", {"buffer_size": "4096", "extra_buffers": "9"}),
        ("@offset=64", "offset", {"initial": "64"}),
        ("@offset:bits=16,initial=64", "offset", {"bits": "16", "initial": "64"}),
        ("@flag", "flag", {}),
        ("@new=a:b,c=d", "new", {"": "a:b,c=d"}),
        ("@new:a-b", "new", {"a_b": "a_b"}),
        ("@new=1,2@new:k=v", "new", {"": "1,2", "k": "v"}),
    ],
)
def test_options(text: str, option: str, keys: dict[str, str]) -> None:
    for port in ("netmap:eth0", "vale0:a", "tap:", "null:", "eth0/x@7", "x{1"):
        parsed = parse(port + text)
        assert parsed.options == {option: keys}
        assert parsed.unparsed_suffix == text
        assert parse(str(parsed)) == parsed


def test_options_cannot_be_changed_and_the_name_can_be_hashed_and_pickled() -> None:
    port = parse("netmap:eth0-2@conf:rings=4")
    with pytest.raises(TypeError):
        port.options["conf"]["rings"] = "5"  # type: ignore[index]
    again = parse("eth0-02@conf:rings=04")
    assert again == port
    assert hash(again) == hash(port)
    assert again.name != port.name
    copy = pickle.loads(pickle.dumps(port))
    assert copy == port
    assert copy.name == port.name
    assert copy.unparsed_suffix == port.unparsed_suffix


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("eth0", "netmap:eth0"),
        ("eth0^03/zt@02@o", "netmap:eth0^3/tz@2@o"),
        ("eth0@2/xR@2", "netmap:eth0/xR@2"),
        ("vale:a*", "vale:a*"),
        ("null", "null:"),
        ("eth0@conf:tx-rings=01@conf:slots=2@x=y@x:z", "netmap:eth0@conf:tx_rings=1,slots=2@x=y@x:z=z"),
    ],
)
def test_canonical_name(name: str, canonical: str) -> None:
    assert str(parse(name)) == canonical
    assert parse(canonical) == parse(name)


# where parse points when a name is wrong: the bar stands before the wrong character


@pytest.mark.parametrize(
    ("barred", "expected"),
    [
        ("netmap:eth0-|x", "a ring number after '-'"),
        ("netmap:eth0-|", "a ring number after '-'"),
        ("br-|lan", "a ring number"),
        ("eth0-|4095", "0 to 4094"),
        ("eth0^|^", "'/' and flags"),
        ("eth0*|1", "'/' and flags"),
        ("eth0/|", "one of the flags"),
        ("eth0/x|q", "one of the flags"),
        ("eth0/x|-2", "one of the flags"),
        ("eth0@|", "a memory id or an option"),
        ("eth0@|0", "from 1 to 65535"),
        ("eth0@|65536", "from 1 to 65535"),
        ("eth0@2/R@|3", "the memory id 2"),
        ("eth0@2|x", "'/' and flags"),
        ("netmap:eth0|&", "a letter"),
        ("netmap:|", "the name of an interface"),
        ("|^", "the name of an interface"),
        ("netmap:|{1", "the name of an interface"),
        ("vale0:|", "a port of the switch"),
        ("vale|.x:y", "':' after 'vale'"),
        ("vale0|", "a port of the switch"),
        ("x{|", "as the pipe's name"),
        ("x{|-1", "the pipe's name"),
        ("x{1|}2", "as the pipe's name"),
        ("x{1|^", "no host rings"),
        ("x}1|*", "no host rings"),
        ("netmap:|..", "cannot be"),
        ("eth012345678901|2", "at most 15"),
        ("vale12345678901|2:a", "at most 15"),
        ("vale0:012345678901234|5", "at most 15"),
        ("012345678901234|5{1", "at most 15"),
        ("x{" + "1" * 61 + "|1", "at most 63"),
        ("tap:012345678901234|5", "at most 15"),
        ("tap:a|/b", "a letter"),
        ("tap:|.", "cannot be"),
        ("null:|x", "the end"),
        ("|", "a port's name"),
        ("|\0", "control character"),
        ("eth0|\n", "control character"),
        ("vale0:a@x=|\x1b", "control character"),
        ("netmap:eth0|\x85", "U+0085"),
        ("pcap:a|\0b", "control character"),
        ("eth0|\N{LATIN SMALL LETTER E WITH ACUTE}", "a letter"),
        ("eth0@a@|", "the name of an option"),
        ("eth0@a@|2", "the name of an option"),
        ("eth0@a=|", "a value"),
        ("eth0@a=|@b", "a value"),
        ("eth0@a:|", "a key of 'a'"),
        ("eth0@a:b,|", "a key of 'a'"),
        ("eth0@a:b|;c", "','"),
        ("eth0@a:b=1,|b=2", "only once"),
        ("eth0@a=1@a=|2", "only once"),
        ("eth0@conf|", "':' and a key"),
        ("eth0@conf|=4", "':' after 'conf'"),
        ("eth0@conf:|ring=4", "one of the keys rings"),
        ("eth0@conf:rings|", "'=' and a value"),
        ("eth0@conf:rings=|many", "a number from 0 to 65535"),
        ("eth0@conf:rings=|65536", "a number from 0 to 65535"),
        ("eth0@conf:slots=|" + "9" * 5000, "a number from 0 to"),
        ("eth0@conf:rings=1@conf:slots=2,|rings=3", "only once"),
        ("eth0@share|", "'share'"),
        ("eth0@|extmem:if-num=3", "the key 'file'"),
        ("eth0@offset:initial=|-1", "a number"),
    ],
)
def test_error_points_at_the_wrong_character(barred: str, expected: str) -> None:
    name = barred.replace("|", "", 1)
    fault = fault_of(name)
    assert (fault.name, fault.position) == (name, barred.index("|"))
    assert expected in fault.expected


@pytest.mark.parametrize(
    ("barred", "hint"),
    [
        ("netmap|;eth0", "'netmap:'"),
        ("pcap|", "'pcap:'"),
        ("pcap|-1", "'netmap:pcap'"),
        ("tap|", "'tap:'"),
        ("null|@conf:slots=1", "'null:'"),
        ("vale0|", "'netmap:vale0'"),
        ("|Null:", "'null:'"),
        ("|NETMAP:eth0", "'netmap:'"),
        ("|ValeX:a", "'valeX:'"),
        ("netmap:vale0|:0", "without 'netmap:'"),
        ("eth0@conf|=4", "@conf:rings=4"),
        ("eth0@opt@|2", "before options"),
    ],
)
def test_likely_slip_gets_a_hint(barred: str, hint: str) -> None:
    fault = fault_of(barred.replace("|", "", 1))
    assert fault.position == barred.index("|")
    assert hint in fault.hint
    assert str(fault).endswith(f"\nhint: {fault.hint}")


def test_error_text_shows_the_name_and_a_caret() -> None:
    assert str(fault_of("netmap:eth0-x")) == (
        "netmap:eth0-x\n"
        "            ^ expected a ring number after '-'"
    )  # fmt: skip


def test_caret_stands_right_behind_wide_combining_and_unprintable_characters() -> None:
    for before, columns in (("日本", 4), ("e\N{COMBINING ACUTE ACCENT}", 1), ("\x1b[31m", 8), ("\udcff", 6)):
        shown, caret = str(PortNameError(before + "!", len(before), "no '!'")).splitlines()
        assert shown.isprintable()
        assert caret == " " * columns + "^ expected no '!'"


def test_error_text_of_a_huge_name_stays_short() -> None:
    shown, caret = str(fault_of("netmap:" + "a" * 10**6 + "-x")).splitlines()
    assert len(shown) < 150
    assert shown.startswith("...")
    assert shown.endswith("...")
    assert caret.startswith(" " * 63 + "^")


def test_error_survives_pickling() -> None:
    fault = fault_of("netmap;eth0")
    copy = pickle.loads(pickle.dumps(fault))
    assert (str(copy), copy.position, copy.hint) == (str(fault), fault.position, fault.hint)


# any text at all

WORDS = """
    netmap: netmap vale0: vale: vale tap: pcap: pcap null: null Null: eth0 eth0.1 x{1 x}2 a . .. { } - -1
    -4095 ^ ^3 * / /x /zT rt @ @2 @2 @65538 @0 @opt @conf:rings=4 conf =4 @conf:slots=07 :tx-rings=1
    ,rx-slots=9 @new=1,2 @share=vale0:a @extmem=/x @new:k=v :a ,b =c = , : & 0
    9999999999999999999999 aaaaaaaaaaaaaaaa
"""
PARTS = st.sampled_from(WORDS.split())
NAMES = (
    st.text() | st.lists(PARTS, max_size=8).map("".join) | st.text("netmapvl:0{}-*^/@xzrtRT1.,=", max_size=20)
)


@given(NAMES)
@example("netmap:eth0-" + "9" * 5000)
@example("eth0@conf:rings=" + "9" * 5000)
def test_any_text_is_a_port_or_a_port_name_error_at_a_place_in_it(name: str) -> None:
    decode_netmap(name)
    outcome = parse_or_fault(name)
    assert outcome.name == name
    if isinstance(outcome, PortNameError):
        assert type(outcome) is PortNameError
        assert 0 <= outcome.position <= len(name)
        assert outcome.expected
        assert f"^ expected {outcome.expected}" in str(outcome).splitlines()[1]


@given(NAMES)
def test_canonical_name_of_any_port_parses_to_an_equal_port(name: str) -> None:
    port = parse_or_fault(name)
    if isinstance(port, PortNameError):
        return
    again = parse(str(port))
    assert again == port
    assert hash(again) == hash(port)
    assert str(again) == str(port)


@given(
    st.sampled_from(["netmap:eth0", "vale0:a", "netmap:x{1"]),
    st.sampled_from(["", "-3"]),
    st.sets(st.sampled_from("xzrtRT")),
    st.none() | st.integers(1, 65535),
    st.dictionaries(
        st.from_regex("[a-z][a-z0-9-]{0,5}", fullmatch=True).filter(
            lambda option: option not in ("share", "extmem", "conf", "offset")
        ),
        st.dictionaries(st.from_regex("[a-z][a-z_]{0,5}", fullmatch=True), st.text("az09:=/. ", min_size=1)),
    ),
)
def test_what_is_written_comes_back(
    base: str, ring: str, flags: set[str], memory_id: int | None, options: dict[str, dict[str, str]]
) -> None:
    name = base + ring + ("/" + "".join(flags) if flags else "") + (f"@{memory_id}" if memory_id else "")
    for option, keys in options.items():
        name += f"@{option}" + (
            ":" + ",".join(f"{key}={value}" for key, value in keys.items()) if keys else ""
        )
    port: PortName = parse(name)
    assert port.options == options
    assert port.memory_id == memory_id
    assert len(port.flags) == len(flags)
    assert port.ring == (3 if ring else 0)


def test_names_load_nothing_heavy() -> None:
    heavy = "{'numpy', 'numba', 'llvmlite', 'pyroute2', 'typer', 'rich'}"
    program = f"import sys, raceway.ports.names; print(sorted({heavy} & sys.modules.keys()))"
    source = str(Path(__file__).parents[1] / "src")
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "[]\n"
