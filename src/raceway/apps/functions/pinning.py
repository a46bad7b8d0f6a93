"""Names in the BPF file system that keep functions on an interface when their process has ended.

A chain is held together by the link to its first function, which keeps that one's program, and by each one's map with
the way on. Such a map empties itself when the last descriptor of it is closed and no name is left, whoever still runs
through it (kernel/bpf/arraymap.c, prog_array_map_clear). So each function's map has a name beside the link's::

    /sys/fs/bpf/raceway/xdp-NAMESPACE-INDEX           the link
                        xdp-NAMESPACE-INDEX-next-0    the first function's way on
                        xdp-NAMESPACE-INDEX-next-1    the second's
                        xdp-NAMESPACE-INDEX-egress    what belongs to a function, as a firewall's link on the way out

Names of maps are given first: who is killed in between leaves maps that lead nowhere, and never half a chain. A name
that is there already is taken over by renaming, so that there is no moment in which nothing keeps the functions.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from raceway.kernel.bpf.links import Link
from raceway.kernel.bpf.system import pin
from raceway.kernel.functions.chain import Chain

BPF_FILES = Path("/sys/fs/bpf")


def pin_path(where: tuple[str, int]) -> Path:
    """The name under which the link to an interface (namespace and index) is pinned."""
    namespace = "".join(letter for letter in where[0] if letter.isdigit())
    return BPF_FILES / "raceway" / f"xdp-{namespace}-{where[1]}"


def pin_chain(chain: Chain, where: tuple[str, int]) -> Path:
    """Give the link and the maps of a chain names; return the link's. Raises OSError, and gives no name then."""
    path = pin_path(where)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path.parent}: {error.strerror}; is there a BPF file system? mount -t bpf bpf {BPF_FILES}",
        ) from None
    pinned = path.exists()
    maps = {f"{path}-next-{position}": member.next.fd for position, member in enumerate(chain.members)}
    try:
        # The interface is this link's: what has its names is of this chain before, or of an earlier interface.
        for name, descriptor in maps.items():
            _pin_over(descriptor, name)
        _pin_over(chain.link.fd, str(path))
        for one in path.parent.glob(f"{path.name}-next-*"):
            if str(one) not in maps:
                one.unlink()
    except BaseException:
        # What was kept before goes on being kept.
        if not pinned:
            unpin(where)
        raise
    return path


def pin_beside(path: Path, what: str, link: Link | None) -> None:
    """Let another link stay as long as the one at a path: under its name, and `what`; None: nothing. Raises OSError."""
    beside = f"{path}-{what}"
    if link is None:
        Path(beside).unlink(missing_ok=True)
    else:
        _pin_over(link.fd, beside)


def _pin_over(descriptor: int, name: str) -> None:
    """Give a BPF object a name, whatever has it."""
    new = Path(f"{name}-new")
    new.unlink(missing_ok=True)
    pin(descriptor, str(new))
    new.rename(name)


def unpin(where: tuple[str, int]) -> None:
    """Remove the names of what is pinned on an interface, the link's first."""
    path = pin_path(where)
    with suppress(OSError):
        path.unlink()
    # The maps keep nobody from anything.
    for one in path.parent.glob(f"{path.name}-*"):
        with suppress(OSError):
            one.unlink()
