"""What drivers say of themselves in the generic netlink family "netdev" (Documentation/netlink/specs/netdev.yaml).

The numbers are those of <linux/netdev.h>. Kernels from before a question answer it with nothing: no features (Linux 6.3
has them), no metadata (6.8), no queues (6.8, and of interfaces that are up).
"""

from __future__ import annotations

from raceway.kernel.netlink import NetlinkSocket, attributes, number, number_attribute

_DEV_GET, _QUEUE_GET = 1, 10
_DEV_IFINDEX, _DEV_XDP_FEATURES, _DEV_XDP_ZC_MAX_SEGS, _DEV_XDP_RX_METADATA = 1, 3, 4, 5
_QUEUE_IFINDEX, _QUEUE_TYPE = 2, 3
_RX, _TX = 0, 1

# By bits: enum netdev_xdp_act and enum netdev_xdp_rx_metadata.
_XDP_ACTS = ("basic", "redirect", "transmit", "zero-copy", "offload", "fragments", "transmit-fragments")
_XDP_METADATA = ("timestamp", "hash", "vlan-tag")


def xdp_features(generic: NetlinkSocket, index: int) -> tuple[frozenset[str], int] | None:
    """What the driver can do for XDP, and the most fragments of a packet in zero-copy mode; None: not told.

    basic: XDP of its own; redirect; transmit: frames that are redirected to it; zero-copy; offload; fragments: packets
    over several buffers; transmit-fragments.
    """
    told = _device(generic, index)
    if told is None:
        return None
    return _words(told.get(_DEV_XDP_FEATURES), _XDP_ACTS), number(told.get(_DEV_XDP_ZC_MAX_SEGS), 1)


def xdp_metadata(generic: NetlinkSocket, index: int) -> frozenset[str]:
    """What XDP programs can ask the driver about a packet besides its bytes: timestamp, hash, vlan-tag."""
    return _words((_device(generic, index) or {}).get(_DEV_XDP_RX_METADATA), _XDP_METADATA)


def queues(generic: NetlinkSocket, index: int) -> tuple[int, int]:
    """How many receive and transmit queues the kernel lists; (0, 0): not told."""
    answers = _ask(generic, _QUEUE_GET, number_attribute(_QUEUE_IFINDEX, index), dump=True)
    kinds = [number(attributes(answer).get(_QUEUE_TYPE)) for answer in answers]
    return kinds.count(_RX), kinds.count(_TX)


def _device(generic: NetlinkSocket, index: int) -> dict[int, bytes] | None:
    answers = _ask(generic, _DEV_GET, number_attribute(_DEV_IFINDEX, index))
    return attributes(answers[0]) if answers else None


def _ask(generic: NetlinkSocket, command: int, body: bytes, *, dump: bool = False) -> list[bytes]:
    try:
        return generic.ask_generic("netdev", command, body, dump=dump)
    except OSError:
        return []


def _words(bits: bytes | None, words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word for bit, word in enumerate(words) if number(bits) >> bit & 1)
