"""What devices do to packets between the wire and whoever captures them, and what senders leave to devices."""

from __future__ import annotations

from collections.abc import Iterator

from raceway.apps.doctor.findings import Finding, State
from raceway.errors import NoSuchInterfaceError
from raceway.kernel.interface import Interface, Network

AREA = "interface"

# What offloads do to what raceway sees: kernel's name, ethtool's, how grave, what.
_OFFLOADS = (
    ("rx-lro", "lro", State.WARN, "the device merges packets: sizes and numbers are not those of the wire"),
    ("rx-gro-hw", "rx-gro-hw", State.NOTE, "the device may merge packets until XDP is attached"),
    ("rx-gro", "gro", State.NOTE, "merges packets before generic XDP and AF_PACKET see them; driver XDP comes first"),
    ("rx-vlan-hw-parse", "rxvlan", State.WARN, "VLAN tags are taken off before XDP sees the packet"),
)  # fmt: skip
_SEGMENTATION = (
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "tx-generic-segmentation",
)


def offload_findings(network: Network, facts: Interface) -> Iterator[Finding]:
    """What the device does to packets between the wire and whoever captures them."""
    states = network.feature_states(facts.name)

    def on(feature: str) -> bool:
        return states.get(feature, (False, False))[0]

    found = []
    for feature, short, state, what in _OFFLOADS:
        # A tag that the driver tells of is put back by raceway's program; a veth has none of its own to take off.
        told = facts.kind == "veth" or "vlan-tag" in network.xdp_metadata(facts.index)
        if not on(feature) or (feature == "rx-vlan-hw-parse" and told):
            continue
        changeable = states[feature][1]
        remedy = (
            f"sudo ethtool -K {facts.name} {short} off" if changeable else "nothing: attaching XDP ends it"
        )
        found.append(Finding(AREA, state, f"offload {short}", what, remedy))
    found += _sender_offloads(network, facts, unfinished=on("rx-checksum"))
    if any(map(on, _SEGMENTATION)):
        what = (
            "what the host sends is cut into frames by the device: captured before, it is up to 64 KiB long"
        )
        found.append(
            Finding(AREA, State.NOTE, "offload tso", what, f"sudo ethtool -K {facts.name} tso off gso off")
        )
    yield from found or [Finding(AREA, State.OK, "offloads", "none that changes what is captured")]


def _sender_offloads(network: Network, facts: Interface, *, unfinished: bool) -> Iterator[Finding]:
    """What a sender leaves to a device that is not there: packets between namespaces and machines on one host."""
    if facts.kind not in ("veth", "tun") and facts.driver != "virtio_net":
        return
    peer = peer_of(network, facts)
    # All is assumed of a sender that cannot be seen.
    sends = (
        network.features(peer.name) if peer else {"tx-checksum-ip-generic": True, "tx-vlan-hw-insert": True}
    )
    other = peer.name if peer else "PEER"
    if unfinished and sends.get("tx-checksum-ip-generic"):
        what = "packets that were never on a wire may come with unfinished checksums: raceway's ports finish them"
        yield Finding(
            AREA,
            State.NOTE,
            "offload tx of the sender",
            what,
            f"at the sender: sudo ethtool -K {other} tx off",
        )
    told = "vlan-tag" in network.xdp_metadata(facts.index)
    if facts.kind == "veth" and sends.get("tx-vlan-hw-insert") and not told:
        what = "VLAN tags travel beside the packet, and XDP does not see them: they are lost"
        yield Finding(
            AREA, State.WARN, "offload txvlan of the sender", what, f"at the sender: sudo ethtool -K {other} txvlan off"
        )  # fmt: skip


def peer_of(network: Network, facts: Interface) -> Interface | None:
    """A veth's other end, if that is in this namespace too."""
    if not facts.peer:
        return None
    try:
        peer = network.interface(facts.peer)
    except NoSuchInterfaceError:
        return None
    # Elsewhere, another interface may have the index here.
    return peer if peer.kind == "veth" and peer.peer == facts.index else None
