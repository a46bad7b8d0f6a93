"""Port names: the words by which every tool and function of raceway says which port it means.

The grammar is netmap's, as libnetmap decodes it, and the prefixes that its packet generator adds::

    netmap:eth0                an interface; plain `eth0` is the same
    netmap:eth0-2/Rx@3@conf:rings=4,slots=512
           ~~~~ ~ ~~ ~ ~~~~~~~~~~~~~~~~~~~~~~
           |    | |  | options: @flag, @option=value, @option:key=value,key=value, one after another
           |    | |  memory id: the region to open the port in
           |    | flags: x exclusive, z zero-copy monitor, r / t monitor rx / tx, R / T only rx / tx rings
           |    ring: -N one NIC ring pair, ^ the host rings, ^N one of those, * NIC and host rings together
           interface, or one end of a pipe: x{1 is the master of pipe 1 at x, x}1 its slave
    vale0:a                    port a of the switch vale0; ring, flags, memory and options as above
    tap:tap0                   a TAP device; `tap:` lets the kernel choose the name; options may follow
    pcap:FILE                  a capture file; everything after the colon is its path
    null:                      a port that drops and invents; options may follow; plain `null` is the same

Two floors. `decode_netmap` is netmap's own judgement of a name, no more and no less: the table in netmap's
tests (nmreq_parse_tests in utils/ctrl-api-test.c) comes out of it row by row. `parse` stands on it, takes the
other kinds too, and refuses what netmap would refuse only later or cut short in silence.

Nothing here opens a port, or looks at one. Whoever opens it must refuse an option that it does not know: the
grammar knows the keys of netmap's own options (`options`) and leaves every other option to the adapter.
"""

import errno
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag, IntEnum, StrEnum
from types import MappingProxyType

from raceway.ports.name_cursor import Cursor, PortNameError as PortNameError
from raceway.ports.options import option_text, parse_options

# netmap asks C's isalnum and isdigit, which in the C locale know ASCII alone; Python's know all of Unicode.
_IDENTIFIER = "[A-Za-z0-9_]*"
# VLAN interfaces are called eth0.100, and libnetmap has let the dot through since 2023 (commit 765f0979). It
# lets all else through too, which its own table still forbids, and so do we.
_DOTTED_IDENTIFIER = "[A-Za-z0-9_.]*"
_DEVICE = "[A-Za-z0-9_.-]*"  # no ring follows a TAP device's name, so it may have a dash

_NAME_LIMIT = 63  # NETMAP_REQ_IFNAMSIZ (64) with its NUL: struct nmreq_header, net/netmap.h
_INTERFACE_LIMIT = 15  # IFNAMSIZ (16) with its NUL: linux/if.h, and nm_bdg_name_validate for switch and port
_RING_LIMIT = 0x0FFF  # NETMAP_RING_MASK: rings go from 0 to one below it
_MEMORY_LIMIT = 0xFFFF  # nr_mem_id is a uint16_t


class PortKind(StrEnum):
    """What stands behind a port; its value is the prefix that names it."""

    NETMAP = "netmap"
    VALE = "vale"
    PCAP = "pcap"
    TAP = "tap"
    NULL = "null"


class RegistrationMode(IntEnum):
    """Which rings of a port to open; names and values are those of net/netmap.h."""

    NR_REG_ALL_NIC = 1
    NR_REG_SW = 2
    NR_REG_NIC_SW = 3
    NR_REG_ONE_NIC = 4
    NR_REG_ONE_SW = 8


class PortFlag(Flag):
    """How to open a port; names and values are those of net/netmap.h."""

    NR_MONITOR_TX = 0x100
    NR_MONITOR_RX = 0x200
    NR_ZCOPY_MON = 0x400
    NR_EXCLUSIVE = 0x800
    NR_RX_RINGS_ONLY = 0x2000
    NR_TX_RINGS_ONLY = 0x4000


_MODE_MARKS = dict(zip(RegistrationMode, ("", "^", "*", "-", "^"), strict=True))
_FLAG_LETTERS = dict(zip("trzxRT", PortFlag, strict=True))
_NO_FLAGS = PortFlag(0)


@dataclass(frozen=True, slots=True)
class Pipe:
    """One end of a pipe, from a port such as `x{1`: `end` is "{" at the master's end, "}" at the slave's."""

    base: str
    end: str
    id: str


@dataclass(frozen=True, slots=True)
class NetmapName:
    """What netmap makes of a name.

    `error` tells the stage that refused it. 0: none. An errno: nmreq_header_decode (what the port is), and
    all else is empty. A negative errno: nmreq_register_decode (how to open it); then `port` is set, `mode` is
    None and `unparsed_suffix` is all that the stage was given. On success the suffix is what netmap leaves to
    its options. `fault` says where and why, for any error.

    `memory_id` is 0 where none is given. netmap keeps 16 bits of it and drops the rest in silence;
    `truncated_at` is then the position of the number that it cut.
    """

    port: str = ""
    unparsed_suffix: str = ""
    error: int = 0
    mode: RegistrationMode | None = None
    ring: int = 0
    flags: PortFlag = _NO_FLAGS
    memory_id: int = 0
    truncated_at: int | None = field(default=None, compare=False)
    fault: PortNameError | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PortName:
    """A parsed port name. Two are equal when they mean the same port opened in the same way.

    `port` is the name without its prefix, as netmap's header carries it: `eth0`, `x{1`, `vale0:a`; for `tap:`
    it is the `device` ("" lets the kernel choose), for `pcap:` the `path`, for `null:` empty. `ring` counts
    only in the modes NR_REG_ONE_NIC and NR_REG_ONE_SW. `memory_id` is None, or 1 to 65535.

    `options` maps an option to its keys and values, all text: `@conf:tx-rings=4` is
    {"conf": {"tx_rings": "4"}} (a dash in a key is an underscore), `@flag` is {"flag": {}}, a key without a
    value has its own name for value, and `@option=value` sets the option's default key, which for options
    unknown to netmap is called "". `unparsed_suffix` is the same as it was written.

    `str()` gives the canonical name, which parses to an equal value.
    """

    kind: PortKind
    name: str = field(compare=False)
    port: str
    mode: RegistrationMode = RegistrationMode.NR_REG_ALL_NIC
    ring: int = 0
    flags: PortFlag = _NO_FLAGS
    memory_id: int | None = None
    options: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    unparsed_suffix: str = field(default="", compare=False)
    pipe: Pipe | None = None
    path: str | None = None
    device: str | None = None

    def __str__(self) -> str:
        prefix = "" if self.kind is PortKind.VALE else f"{self.kind}:"
        one_ring = self.mode in (RegistrationMode.NR_REG_ONE_NIC, RegistrationMode.NR_REG_ONE_SW)
        ring = _MODE_MARKS[self.mode] + (str(self.ring) if one_ring else "")
        flags = "".join(letter for letter, flag in _FLAG_LETTERS.items() if flag in self.flags)
        memory = "" if self.memory_id is None else f"@{self.memory_id}"
        options = "".join(option_text(option, keys) for option, keys in self.options.items())
        return prefix + self.port + ring + ("/" + flags if flags else "") + memory + options

    def __reduce__(self) -> tuple[object, ...]:
        # Read-only mappings do not pickle; names do, and cross to another process as themselves.
        return parse, (self.name,)


def decode_netmap(name: str) -> NetmapName:
    """What netmap's nmreq_header_decode and nmreq_register_decode make of `name`; never raises.

    The characters of a port's name are those of netmap's test table (letters, digits, underscore; ASCII).
    """
    return _decode(name, _IDENTIFIER)


def _decode(name: str, port_pattern: str) -> NetmapName:
    cursor = Cursor(name)
    try:
        port = _decode_header(cursor, port_pattern)
    except PortNameError as fault:
        return NetmapName(error=errno.EINVAL, fault=fault)
    suffix = name[cursor.at :]
    try:
        return _decode_register(cursor, port)
    except PortNameError as fault:
        # An errno left by an earlier number stays: netmap sets EINVAL only where there is none.
        return NetmapName(port, suffix, -(cursor.errno or errno.EINVAL), fault=fault)


def _decode_header(cursor: Cursor, port_pattern: str) -> str:
    """Step over `netmap:port` or `valeX:port` and return the port's name."""
    prefix = cursor.take("(?:netmap|vale)?")
    if not prefix:
        raise cursor.fault("'netmap:', or 'vale', a switch's identifier and ':'")
    if prefix == "vale":
        prefix += cursor.take(_IDENTIFIER)
    if not cursor.skip(":"):
        raise cursor.fault(f"':' after '{prefix}'")
    port_at, name_at = cursor.at, cursor.at if prefix == "netmap" else 0
    cursor.take(port_pattern)
    dot = "" if port_pattern == _IDENTIFIER else ". "
    wanted = f"a letter, a digit, or one of _ {dot}{{ }} - * ^ / @"
    if brace := cursor.skip("{}"):
        wanted = f"a letter, a digit or '_', as the pipe's name after '{brace}'"
        if not cursor.more():
            raise cursor.fault(wanted)
        cursor.take(_IDENTIFIER)
    if cursor.more() and not cursor.sees("-*^/@"):
        nested = name_at and cursor.sees(":") and cursor.text.startswith("vale", port_at)
        raise cursor.fault(wanted, "a switch's port is written without 'netmap:'" if nested else "")
    port = cursor.text[name_at : cursor.at]
    if not port:
        raise cursor.fault("the name of an interface")
    if len(port) > _NAME_LIMIT:
        raise cursor.fault(f"a port's name of at most {_NAME_LIMIT} characters", at=name_at + _NAME_LIMIT)
    return port


def _decode_register(cursor: Cursor, port: str) -> NetmapName:
    """Step over rings, flags and memory ids, up to the end or to the first option."""
    mode, ring = _decode_rings(cursor)
    flags, memory_id, truncated_at = _NO_FLAGS, 0, None
    while cursor.more():
        begin = cursor.at + 1
        if cursor.skip("/"):
            flags |= _decode_flags(cursor)
        elif not cursor.skip("@"):
            raise cursor.fault("'/' and flags, '@' and a memory id or an option, or the end")
        elif not cursor.more():
            raise cursor.fault("a memory id or an option after '@'")
        elif not cursor.sees("0123456789"):
            cursor.at -= 1
            break
        else:
            number = cursor.take_number()
            if number == 0:
                raise cursor.fault(f"a memory id from 1 to {_MEMORY_LIMIT}", at=begin)
            if memory_id not in (0, number):
                raise cursor.fault(f"the memory id {memory_id} that stands before, or none", at=begin)
            memory_id = number & _MEMORY_LIMIT
            if number > _MEMORY_LIMIT and truncated_at is None:
                truncated_at = begin
    return NetmapName(port, cursor.text[cursor.at :], 0, mode, ring, flags, memory_id, truncated_at)


def _decode_rings(cursor: Cursor) -> tuple[RegistrationMode, int]:
    mark = cursor.skip("^*-")
    if mark == "*":
        return RegistrationMode.NR_REG_NIC_SW, 0
    begin = cursor.at
    if not mark or not cursor.sees("0123456789"):
        if mark == "-":
            raise cursor.fault("a ring number after '-'")
        return (RegistrationMode.NR_REG_SW if mark else RegistrationMode.NR_REG_ALL_NIC), 0
    ring = cursor.take_number()
    if ring >= _RING_LIMIT:
        raise cursor.fault(f"a ring number from 0 to {_RING_LIMIT - 1}", at=begin)
    return (RegistrationMode.NR_REG_ONE_SW if mark == "^" else RegistrationMode.NR_REG_ONE_NIC), ring


def _decode_flags(cursor: Cursor) -> PortFlag:
    letters = cursor.take(f"[{''.join(_FLAG_LETTERS)}]*")
    if cursor.more() != cursor.sees("@") or not (letters or cursor.more()):
        raise cursor.fault(f"one of the flags {' '.join(_FLAG_LETTERS)} after '/'")
    flags = _NO_FLAGS
    for letter in letters:
        flags |= _FLAG_LETTERS[letter]
    return flags


def parse(name: str) -> PortName:
    """The port that `name` names. Raises PortNameError, and nothing else, for a text that names none.

    A name without a prefix is that of an interface: it is read as if `netmap:` stood before it, so that
    netmap's decoder, which refuses plain `eth0`, sees `netmap:eth0`. Stricter than that decoder: an
    interface, a switch and a port of it have at most 15 characters each, as in netmap's kernel part; a pipe
    has a base, a name and no host rings; a memory id fits 16 bits; no control characters, except in the path
    of `pcap:`, which may hold anything but NUL.
    """
    is_capture = name.startswith("pcap:")
    for position, character in enumerate(name):
        if character == "\0" or (not is_capture and unicodedata.category(character) == "Cc"):
            raise PortNameError(name, position, f"no control character (this is U+{ord(character):04X})")
    if is_capture:
        if name == "pcap:":
            raise PortNameError(name, len(name), "the path of a capture file after 'pcap:'")
        path = name.removeprefix("pcap:")
        return PortName(PortKind.PCAP, name, path, path=path)
    if name.startswith(("tap:", "null:")) or name == "null":
        return _parse_device(name)
    prefix = _missing_prefix(name)
    try:
        return _parse_netmap(name, prefix + name)
    except PortNameError as fault:
        raise PortNameError(name, fault.position - len(prefix), fault.expected, fault.hint) from None


def _parse_device(name: str) -> PortName:
    cursor = Cursor(name)
    is_tap = cursor.take("tap:|null:?") == "tap:"
    device = cursor.take(_DEVICE) if is_tap else ""
    if cursor.more() and not cursor.sees("@"):
        wanted = "a letter, a digit, or one of _ . -" if is_tap else "the end"
        raise cursor.fault(f"{wanted}, or '@' and an option")
    _check_word(cursor, 4, device, "a TAP device")
    suffix, options = name[cursor.at :], parse_options(cursor)
    if not is_tap:
        return PortName(PortKind.NULL, name, "", options=options, unparsed_suffix=suffix)
    return PortName(PortKind.TAP, name, device, options=options, unparsed_suffix=suffix, device=device)


def _missing_prefix(name: str) -> str:
    """What to put before `name`: "netmap:" if it has no prefix, else "". Refuses a slip in a prefix."""
    cursor = Cursor(name)
    word = cursor.take(_DOTTED_IDENTIFIER)
    kind, kinds = word.lower(), list(PortKind)
    if not name:
        raise cursor.fault("a port's name, such as eth0, vale0:a, pcap:FILE, tap: or null:")
    if cursor.sees(":"):
        if word.startswith(("netmap", "vale")):
            return ""  # netmap's own decoder says what is wrong with these, if anything
        hint = f"did you mean '{kind[:4] + word[4:]}:'?" if kind.startswith("vale") else ""
        hint = f"did you mean '{kind}:'?" if kind in kinds else hint
        known = "netmap: valeX: pcap: tap: or null: as prefix, or an interface without ':'"
        raise cursor.fault(known, hint, at=0)
    if kind in kinds or word.startswith("vale"):
        after = {"pcap": " and a capture file", "vale": " and a port of the switch"}.get(kind[:4], "")
        hint = f"did you mean '{kind if kind in kinds else word}:'? An interface {word} is 'netmap:{word}'"
        raise cursor.fault(f"':'{after} after '{word}'", hint)
    return "netmap:"


def _parse_netmap(name: str, text: str) -> PortName:
    decoded = _decode(text, _DOTTED_IDENTIFIER)
    if decoded.fault is not None:
        raise decoded.fault
    assert decoded.mode is not None  # only a fault leaves it out
    cursor = Cursor(text, len(text) - len(decoded.unparsed_suffix))
    if decoded.truncated_at is not None:
        raise cursor.fault(f"a memory id from 1 to {_MEMORY_LIMIT}", at=decoded.truncated_at)
    switch = text.partition(":")[0] if text.startswith("vale") else ""
    port_at = text.index(":") + 1
    end = port_at + len(decoded.port) - (port_at if switch else 0)
    base = re.split("[{}]", text[port_at:end])[0]
    pipe = None
    if (brace_at := port_at + len(base)) < end:
        pipe = Pipe(decoded.port[: -(end - brace_at)], text[brace_at], text[brace_at + 1 : end])
        if not pipe.id:
            raise cursor.fault(f"the pipe's name after '{pipe.end}'", at=end)
        if text[end : end + 1] in ("^", "*"):
            raise cursor.fault("'-', '/', '@' or the end: a pipe has no host rings", at=end)
    if not base:
        raise cursor.fault(f"the name of {'a port of the switch' if switch else 'an interface'}", at=port_at)
    _check_word(cursor, 0, switch, "a switch")
    _check_word(cursor, port_at, base, "a switch's port" if switch else "an interface")
    kind, memory_id = PortKind.VALE if switch else PortKind.NETMAP, decoded.memory_id or None
    options, suffix = parse_options(cursor), decoded.unparsed_suffix
    registration = decoded.mode, decoded.ring, decoded.flags, memory_id
    return PortName(kind, name, decoded.port, *registration, options, suffix, pipe)


def _check_word(cursor: Cursor, at: int, word: str, what: str) -> None:
    if len(word) > _INTERFACE_LIMIT:
        raise cursor.fault(f"at most {_INTERFACE_LIMIT} characters for {what}", at=at + _INTERFACE_LIMIT)
    if word in (".", ".."):
        raise cursor.fault(f"a name for {what}, which '.' and '..' cannot be", at=at)
