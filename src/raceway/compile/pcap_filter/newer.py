"""What libpcap 1.11 takes, said in the words of the 1.10.6 that PyPI carries.

libpcap's development version knows primitives and link types that its last release does not, and refuses numbers that
it took. Where the new can be said in the old, it is said here, in text before libpcap compiles it or in the program
after. `before` and `after` enclose the compilation; with a libpcap that knows more itself this module can go.

    gateway NAME           ether host NAME and not (ip host NAME ...), as pcap-filter(7) defines it
    vxlan [VNI]            UDP to port 4789 with the flags of RFC 7348, section 5; with other primitives behind it,
                           which are about the packet inside, as Geneve without options that carries Ethernet
    dpc != N, ...          not dpc = N
    IS-IS PDU types        five bits of their byte, above which stand three that are reserved (ISO 10589, 9.5)
    SLIP                   outbound is a direction byte of 1, and not any but 0
    PPI                    as radiotap, whose length stands at the same place, behind a test for 802.11 in it
    DSA tags (281, 284)    as Ethernet whose fields from byte 12 on stand four bytes further
    BACnet MS/TP           addresses at bytes 3 and 4 of its header (ANSI/ASHRAE 135, clause 9)
"""

from __future__ import annotations

import re
from itertools import pairwise

from raceway.compile.errors import ExpressionError
from raceway.compile.pcap_filter import program as bpf
from raceway.compile.pcap_filter.program import Instruction

ETHERNET, SLIP, RADIOTAP = 1, 8, 127
ARCNET, C_HDLC, ARCNET_LINUX, MS_TP, PPI, DSA_BROADCOM, DSA = 7, 104, 129, 165, 192, 281, 284
_DSA_TAG, _DSA_AT = 4, 12
_UNMOVED = 1 << 20
"""Added to offsets that users give themselves, so that they are told from libpcap's own."""
_IN_PPI = 0x69000000
"""LINKTYPE_IEEE802_11, 105, in the little-endian order of PPI's header."""
_DIRECTIONS = {
    DSA_BROADCOM: {"inbound": (0xE0, 0x00), "outbound": (0xE0, 0x20)},
    DSA: {"inbound": (0x40, 0x00), "outbound": (0xC0, 0x40)},
}
"""(mask, value) of the tag's first byte."""

_NUMBER = r"(0[xX][0-9a-fA-F]+|\d+)"
_VXLAN_PORT, _VXLAN_FLAGS = 4789, 0x08
_GENEVE_PORT, _ETHERNET_INSIDE = 6081, 0x6558
_MASKED = bpf.ALU | bpf.AND | bpf.K
_ETHERTYPES = {"lldp": 0x88CC, "slow": 0x8809, "loopback": 0x9000}
_ISIS = r"\b(l1|l2|iih|lsp|snp|csnp|psnp|isis\s+proto)\b"
_ISIS_DISCRIMINATOR, _ISIS_TYPE = 0x83, 0x1F
_LIMITS = (
    (rf"\bisis\s+proto\s+{_NUMBER}", "IS-IS PDU type", 31),
    (rf"\b(?:iso|ip|ip6)\s+proto\s+{_NUMBER}", "protocol number", 255),
    (rf"\bprotochain\s+{_NUMBER}", "protocol number", 255),
    (rf"\bvpi\s*=?\s*{_NUMBER}", "VPI", 255),
    (rf"\bvci\s*=?\s*{_NUMBER}", "VCI", 65_535),
)


def before(text: str, link_type: int) -> tuple[str, int]:
    """Return the expression and the link type to compile it for. Raises ExpressionError."""
    _check(text, link_type)
    text = re.sub(r"\b(?:(ip|arp|rarp)\s+)?gateway\s+([^\s()]+)", _gateway, text)
    if re.search(r"\bvxlan\b", text):
        text = _vxlan(text)
    fields = r"h?sio|h?opc|h?dpc|h?sls|vpi|vci"
    text = re.sub(rf"\b({fields})\s*!=\s*{_NUMBER}", r"(not \1 = \2)", text)
    names = "|".join(_ETHERTYPES)
    text = re.sub(
        rf"\b(ether|link)\s+proto\s+\\?({names})\b",
        lambda found: f"{found[1]} proto {_ETHERTYPES[found[2]]:#x}",
        text,
    )
    if link_type == MS_TP:
        return _ms_tp(text), link_type
    if link_type == SLIP:
        return re.sub(r"\boutbound\b", "(link[0] = 1)", text), link_type
    if link_type == PPI and re.search(r"\b(type|subtype|dir)\b", text):
        return text, RADIOTAP
    if link_type in _DIRECTIONS:
        return _tagged(text, link_type), ETHERNET
    return text, link_type


def after(
    instructions: list[Instruction], asked: str, text: str, link_type: int, compiled_for: int
) -> list[Instruction]:
    """Return the program for the link type and the expression that were asked for; text: what `before` made of it."""
    if re.search(r"\bvxlan\b", asked) and re.search(r"\bgeneve\b", text):
        instructions = _geneve_as_vxlan(instructions)
    if link_type == PPI and compiled_for == RADIOTAP:
        told = [
            Instruction(bpf.LD | bpf.ABS | bpf.WORD, 0, 0, 4),
            Instruction(bpf.JMP | bpf.JEQ | bpf.K, 1, 0, _IN_PPI),
            Instruction(bpf.RET | bpf.K, 0, 0, 0),
        ]
        return told + instructions
    if link_type in _DIRECTIONS:
        return [_moved(one) for one in instructions]
    if re.search(_ISIS, text) and "[" not in text:
        return _with_types_of_five_bits(instructions, 3 if link_type == C_HDLC else 4)
    if link_type in (ARCNET, ARCNET_LINUX) and "[" not in text:
        return _without_old_codes(instructions, 2 if link_type == ARCNET else 4)
    return instructions


def _check(text: str, link_type: int) -> None:
    for pattern, what, limit in _LIMITS:
        for found in re.finditer(pattern, text):
            _limit(what, int(found[1], 0), limit)
    if link_type == ETHERNET:
        for found in re.finditer(rf"\b(?:link|ether)\s+proto\s+{_NUMBER}", text):
            number = int(found[1], 0)
            # IEEE 802.3: up to 1,500 it is a length, and what is asked for is the LLC header's service access point.
            _limit("LLC DSAP" if number <= 1500 else "EtherType", number, 255 if number <= 1500 else 65_535)
    if re.search(r"\b(vxlan|geneve)\b.*\bgateway\b", text, re.DOTALL):
        raise ExpressionError("'gateway' cannot be used within VXLAN or Geneve")
    if re.search(r"\bdecnet\s+net\b", text):
        raise ExpressionError("'decnet' is not a valid qualifier for 'net'")
    direction = r"(?:(?:src|dst)\s+(?:(?:or|and)\s+(?:src|dst)\s+)?)?"
    for found in re.finditer(rf"\bdecnet\s+{direction}(?:host\s+)?(\d[\d.]*)", text):
        parts = found[1].split(".")
        if len(parts) != 2 or not all(parts) or int(parts[0]) > 63 or int(parts[1]) > 1023:
            raise ExpressionError(f"invalid DECnet address '{found[1]}'")


def _limit(what: str, number: int, limit: int) -> None:
    if number > limit:
        raise ExpressionError(f"{what} {number} greater than maximum {limit}")


def _gateway(found: re.Match[str]) -> str:
    protocol, name = found[1], found[2]
    if name[0].isdigit() or ":" in name:
        raise ExpressionError(f"'gateway' requires a name, got '{name}'")
    protocols = [protocol] if protocol else ["ip", "arp", "rarp"]
    # The host is negated and the protocol is not.
    hosts = " or ".join(f"{one} host {name}" for one in protocols)
    return f"(({' or '.join(protocols)}) and ether host {name} and not ({hosts}))"


def _vxlan(text: str) -> str:
    found = re.search(rf"\bvxlan\b(?:\s+{_NUMBER})?", text)
    assert found is not None
    if re.search(r"[^\s)]", text[found.end() :]):
        return _vxlan_as_geneve(text)
    number = found[1]
    inside = f"{_VXLAN_FLAGS:#x}"
    four, six = f"udp[8] = {inside}", f"ip6[48] = {inside}"
    if number is not None:
        _limit("VXLAN VNI", int(number, 0), 0xFFFFFF)
        wanted = f"& 0xffffff00 = {int(number, 0) << 8:#x}"
        four, six = f"{four} and udp[12:4] {wanted}", f"{six} and ip6[52:4] {wanted}"
    port = f"udp dst port {_VXLAN_PORT}"
    made = f"((ip and {port} and {four}) or (ip6 and {port} and {six}))"
    return text[: found.start()] + made + text[found.end() :]


def _vxlan_as_geneve(text: str) -> str:
    for pattern, what in ((r"\bgeneve\b", "Geneve"), (r"\b(?:6081|0x17[cC]1)\b", "Geneve's port 6081")):
        if re.search(pattern, text):
            raise ExpressionError(f"'vxlan' with other primitives behind it and {what} in one expression")
    for found in re.finditer(rf"\bvxlan\s+{_NUMBER}", text):
        _limit("VXLAN VNI", int(found[1], 0), 0xFFFFFF)
    return re.sub(r"\bvxlan\b", "geneve", text)


def _geneve_as_vxlan(instructions: list[Instruction]) -> list[Instruction]:
    """The same header lengths, with another port and other flags, no options, and Ethernet inside."""
    made = list(instructions)
    versioned = False
    for index, one in enumerate(instructions):
        further = instructions[index + 1 : index + 4]
        if one.code == bpf.JMP | bpf.JEQ | bpf.K and one.k == _GENEVE_PORT:
            made[index] = one._replace(k=_VXLAN_PORT)
            versioned = True
        elif (
            versioned
            and one.code == _MASKED
            and one.k == 0xC0
            and further[0].code == bpf.JMP | bpf.JEQ | bpf.K
        ):
            made[index] = one._replace(k=0xFF)
            made[index + 1] = further[0]._replace(k=_VXLAN_FLAGS)
            versioned = False
        elif one.code == _MASKED and one.k == 0x3F and [two.k for two in further[:2]] == [4, 8]:
            # How many words of options.
            made[index] = one._replace(k=0)
        elif one.code == bpf.JMP | bpf.JEQ | bpf.K and one.k == _ETHERNET_INSIDE:
            # What the header says is inside; then the register comes back.
            made[index - 2] = Instruction(bpf.LD | bpf.IMM, 0, 0, _ETHERNET_INSIDE)
    return made


def _ms_tp(text: str) -> str:
    if re.search(r"\blink\s+proto\b", text):
        raise ExpressionError("'link proto' is not supported for BACnet MS/TP")

    def address(found: re.Match[str]) -> str:
        which, number = (found[1] or "src or dst").split(), f"0x{found[2]}"
        places = [f"link[{3 if one == 'dst' else 4}] = {number}" for one in which if one in ("src", "dst")]
        return f"({(' and ' if 'and' in which else ' or ').join(places)})"

    text = re.sub(
        r"\blink\s+((?:src|dst)(?:\s+(?:or|and)\s+(?:src|dst))?)?\s*(?:host\s+)?\$([0-9a-fA-F]{1,2})\b",
        address,
        text,
    )
    return re.sub(r"\b(?:link\s+)?broadcast\b", "(link[3] = 0xff)", text)


def _tagged(text: str, link_type: int) -> str:
    if re.search(r"\b(geneve|vxlan)\b", text):
        raise ExpressionError("packets inside Geneve are not supported behind a DSA tag")
    for name, (mask, value) in _DIRECTIONS[link_type].items():
        text = re.sub(rf"\b{name}\b", f"(ether[{_DSA_AT}] & {mask:#x} = {value:#x})", text)
    if re.search(r"\b(?:ether|link)\s*\[(?!\s*\d)", text):
        raise ExpressionError("a computed offset into the link layer is not supported behind a DSA tag")

    def own(found: re.Match[str]) -> str:
        return f"{found[1]}[{int(found[2], 0) + _UNMOVED}{found[3]}"

    return re.sub(rf"\b(ether|link)\s*\[\s*{_NUMBER}\s*(\]|:)", own, text)


def _moved(one: Instruction) -> Instruction:
    if one.kind in (bpf.LD, bpf.LDX) and one.mode in (bpf.ABS, bpf.IND, bpf.MSH):
        if one.k >= _UNMOVED:
            return one._replace(k=one.k - _UNMOVED)
        if one.k >= _DSA_AT:
            return one._replace(k=one.k + _DSA_TAG)
    return one


def _without_old_codes(instructions: list[Instruction], place: int) -> list[Instruction]:
    """ARCnet's system codes of RFC 1051, 240 and 241, have another header behind them than those of RFC 1201."""
    made, loaded = [], -1
    for one in instructions:
        if one.kind == bpf.LD:
            loaded = one.k if one.code == bpf.LD | bpf.ABS | bpf.BYTE else -1
        elif one.code == bpf.JMP | bpf.JEQ | bpf.K and one.k in (240, 241) and loaded == place:
            one = one._replace(jt=one.jf)
        made.append(one)
    return made


def _with_types_of_five_bits(instructions: list[Instruction], looked_at: int) -> list[Instruction]:
    """IS-IS: a PDU's type is in five bits, four bytes behind the discriminator. looked_at: where libpcap 1.10 looks for
    it, which for Cisco HDLC is a byte too early."""
    byte, equal = bpf.LD | bpf.ABS | bpf.BYTE, bpf.JMP | bpf.JEQ | bpf.K
    pairs = list(pairwise(instructions))
    places = {
        one.k for one, then in pairs if (one.code, then.code, then.k) == (byte, equal, _ISIS_DISCRIMINATOR)
    }
    types = {
        index
        for index, (one, then) in enumerate(pairs)
        if one.code == byte and then.code == equal and one.k - looked_at in places
    }
    mask = Instruction(bpf.ALU | bpf.AND | bpf.K, 0, 0, _ISIS_TYPE)
    made = []
    for index, one in enumerate(instructions):
        if one.kind == bpf.JMP and one.operation != bpf.JA:
            jt, jf = (skip + sum(index < at <= index + skip for at in types) for skip in (one.jt, one.jf))
            one = one._replace(jt=jt, jf=jf)
        elif index in types:
            one = one._replace(k=one.k - looked_at + 4)
        made.append(one)
        if index in types:
            made.append(mask)
    return made
