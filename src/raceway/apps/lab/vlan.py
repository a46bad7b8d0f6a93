"""The interface of an 802.1Q VLAN upon a veth: the kernel's own, or one made of a veth pair and two programs.

Many small kernels are built without VLAN devices (CONFIG_VLAN_8021Q). On those a host of a lab gets

    veth0.5 ═══ veth0.5-tag ──push──> veth0 ── to the other host
                            <──pop───

where two programs at the traffic control's hooks put the tag on and take it off. Seen from outside it is the same: the
host has its addresses on veth0.5, on the wire all that it sends is tagged, frames without the tag stay with veth0.
The programs belong to the interfaces (filters of a clsact qdisc), and go when those go.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

from raceway.apps.lab.plan import End
from raceway.kernel.bpf.assembler import R0, R1, R2, R3, Assembler
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import Helper, ProgramKind, TcxAction

_ETH_P_8021Q = 0x8100
_PROTOCOL = socket.htons(_ETH_P_8021Q)
_IDENTIFIER_BITS = 0x0FFF  # Of the tag control information: IEEE 802.1Q, 9.6.
_CLSACT_INGRESS = 0xFFFF_FFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS): <linux/pkt_sched.h>
# struct __sk_buff, <linux/bpf.h>
_VLAN_PRESENT, _VLAN_TCI, _VLAN_PROTOCOL = 20, 24, 28


def add_vlan(route: Any, end: End, vlan: int, mtu: int) -> int:
    """Make `end.addressed` upon `end.interface`, in the namespace of `route`; return its index, still down.

    Raises pyroute2's NetlinkError, PermissionNeededError.
    """
    from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped, unused-ignore]

    try:
        route.link("add", ifname=end.addressed, kind="vlan", link=end.index, vlan_id=vlan)
        return _index(route, end.addressed)
    except NetlinkError as error:
        if error.code != errno.EOPNOTSUPP:
            raise
    tagger = f"{end.addressed}-tag"
    route.link("add", ifname=end.addressed, kind="veth", peer=tagger, mtu=mtu, address=end.mac)
    index, tagger_index = _index(route, end.addressed), _index(route, tagger)
    # It is no host's: it must not say anything by itself.
    silence = Path(f"/proc/sys/net/ipv6/conf/{tagger}/disable_ipv6")
    if silence.exists():
        silence.write_text("1")
    route.link("set", index=tagger_index, mtu=mtu, state="up")
    _attach(route, tagger_index, _pushing(vlan, end.index))
    _attach(route, end.index, _popping(vlan, tagger_index))
    return index


def _index(route: Any, name: str) -> int:
    (index,) = route.link_lookup(ifname=name)
    return int(index)


def _attach(route: Any, index: int, instructions: bytes) -> None:
    with Program(ProgramKind.SCHED_CLS, instructions, name="lab_vlan") as program:
        route.tc("add", "clsact", index)
        route.tc(
            "add-filter", "bpf", index, ":1", fd=program.fd, name="lab_vlan",
            parent=_CLSACT_INGRESS, classid=1, direct_action=True,
        )  # fmt: skip


def _pushing(vlan: int, target: int) -> bytes:
    """What arrives leaves by interface `target`, tagged."""
    program = Assembler()
    program.mov(R2, _PROTOCOL).mov(R3, vlan).call(Helper.SKB_VLAN_PUSH)
    program.jump_if("!=", R0, 0, "drop")
    program.mov(R1, target).mov(R2, 0).call(Helper.REDIRECT).exit()
    program.label("drop").mov(R0, TcxAction.DROP).exit()
    return program.assemble()


def _popping(vlan: int, target: int) -> bytes:
    """What arrives with the tag leaves by interface `target` without it; all else goes its way."""
    program = Assembler()
    program.load(R2, R1, _VLAN_PRESENT, 4).jump_if("==", R2, 0, "pass")
    program.load(R2, R1, _VLAN_PROTOCOL, 4).jump_if("!=", R2, _PROTOCOL, "pass")
    program.load(R2, R1, _VLAN_TCI, 4).and_(R2, _IDENTIFIER_BITS).jump_if("!=", R2, vlan, "pass")
    program.call(Helper.SKB_VLAN_POP).jump_if("!=", R0, 0, "drop")
    program.mov(R1, target).mov(R2, 0).call(Helper.REDIRECT).exit()
    program.label("pass").mov(R0, TcxAction.PASS).exit()
    program.label("drop").mov(R0, TcxAction.DROP).exit()
    return program.assemble()
