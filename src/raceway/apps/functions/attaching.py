"""`raceway.attach("eth0", function)`: the packet function as XDP, in the driver of a live interface.

This process's functions on an interface are a chain (`kernel.functions.chain`): what one PASSes the next one gets, and
what the last PASSes goes to the host. All of it goes when the process ends, by SIGKILL too.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raceway.apps.functions.pinning import pin_chain, pin_path, unpin
from raceway.errors import NoSuchInterfaceError, PortBusyError
from raceway.kernel.bpf.links import Link, attach_xdp
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.functions.chain import Chain
from raceway.kernel.functions.loading import LoadedFunction

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction

MODES = ("driver", "generic")
_GRACE = 0.02
"""Seconds after which no packet is in a program that nothing leads to."""
_lock = threading.Lock()


def network_namespace() -> str:
    """The calling thread's network namespace, as a word."""
    return str(Path("/proc/thread-self/ns/net").readlink())


def interface_index(name: str) -> int:
    """The index of an interface in the calling thread's network namespace. Raises NoSuchInterfaceError."""
    try:
        return socket.if_nametoindex(name)
    except (OSError, ValueError, UnicodeError):
        # It may have that name as another name, or there is one that is called nearly so.
        from raceway.kernel.interface import Network

        with Network() as network:
            return network.interface(name).index


_chains: dict[tuple[str, int], Chain] = {}


class Attachment:
    """A packet function on an interface; `close`, or the end of a `with`, takes it off again.

    interface: its name; mode: "driver" (in the network driver) or "generic" (behind it, in the host's stack);
    succeeded: it took the place of a pinned firewall whose process had ended.
    """

    def __init__(
        self, interface: str, loaded: LoadedFunction, chain: Chain, where: tuple[str, int] | None
    ) -> None:
        self.interface, self.mode = interface, chain.mode
        self.function = loaded.function
        self._loaded, self._chain, self._where = loaded, chain, where
        self._open = True
        self.succeeded = False
        self._guest = False

    @property
    def counters(self) -> dict[str, int]:
        """Packets by verdict, why those that were ABORTED were, and how many found no ring (`no_ring`)."""
        return self._loaded.counters

    def replace(
        self, function: PacketFunction, grace: float = _GRACE, sockets: Map | None = None
    ) -> dict[str, int]:
        """Put another function in the place of this one, between two packets; return the old one's last counters.

        grace: seconds to wait until no packet is in the old one any more; sockets: where REDIRECT leads to from the
        new one, if not to where the chain leads. Raises what `attach` raises; the old one
        stays in its place then.
        """
        with _lock:
            if not self._open:
                raise ValueError(f"{self.function.name} was taken off {self.interface}")
            old = self._loaded
            loaded = LoadedFunction(function, sockets=sockets or self._chain.sockets)
            try:
                self._chain.replace(old, loaded)
            except BaseException:
                loaded.close()
                raise
            self._loaded, self.function = loaded, function
            # What leads on from the new one has to stay as well.
            self._pin_anew()
        time.sleep(grace)
        counted = old.counters
        old.close()
        return counted

    def precede(self, function: PacketFunction) -> Attachment:
        """Put another function right before this one, between two packets, until what is returned is closed.

        It may come and go while the chain is pinned, and is then pinned with it. Raises what `attach` raises.
        """
        with _lock:
            if not self._open:
                raise ValueError(f"{self.function.name} was taken off {self.interface}")
            loaded = LoadedFunction(function, sockets=self._chain.sockets)
            guest = Attachment(self.interface, loaded, self._chain, self._where)
            guest._guest = True
            try:
                self._chain.insert(self._chain.members.index(self._loaded), loaded)
                guest._pin_anew()
            except BaseException:
                if loaded in self._chain.members:
                    self._chain.remove(loaded)
                    time.sleep(_GRACE)
                loaded.close()
                raise
        return guest

    def _pin_anew(self) -> None:
        """Give names to what leads through a pinned chain now."""
        if self._chain.pinned and self._where is not None:
            pin_chain(self._chain, self._where)

    def pin(self) -> Path:
        """Let all functions of this process on the interface stay when it ends, until `raceway detach`; return the
        link's name in the BPF file system. From then on the chain is as it is: nothing is added, and `close` takes
        nothing off.

        Raises ValueError for functions on a port, OSError.
        """
        if self._where is None:
            raise ValueError(
                f"{self.function.name} is on a port, whose program ends with it; attach it to the interface to pin it"
            )
        with _lock:
            if not self._chain.pinned:
                pin_chain(self._chain, self._where)
                self._chain.pinned = True
            return pin_path(self._where)

    def unpin(self) -> None:
        """Let all functions of this process on the interface go with it again."""
        with _lock:
            if self._where is not None and self._chain.pinned:
                unpin(self._where)
                self._chain.pinned = False

    @property
    def attached(self) -> bool:
        """False once it was taken off, or the interface is gone."""
        return self._open and self._chain.link.attached

    def close(self) -> None:
        """Take it off, unless it is pinned. May be called twice."""
        with _lock:
            if not self._open:
                return
            self._open = False
            try:
                if self._guest and self._chain.link.attached:
                    needed = self._chain.remove(self._loaded)
                    self._pin_anew()
                    # A packet that is in it still has to find its way on, which ends with its map.
                    time.sleep(_GRACE)
                elif self._chain.pinned:
                    self._chain.members.remove(self._loaded)
                    needed = bool(self._chain.members)
                elif self._chain.link.attached:
                    needed = self._chain.remove(self._loaded)
                else:
                    self._chain.members.remove(self._loaded)
                    needed = bool(self._chain.members)
                if not needed and self._where is not None:
                    self._chain.link.close()
                    _chains.pop(self._where, None)
            finally:
                self._loaded.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"{self.mode} mode" if self._open else "taken off"
        return f"<{self.function.name} on {self.interface}: {state}>"


def attach(
    where: Any,
    function: PacketFunction,
    *,
    mode: str = "",
    position: int | None = None,
    succeed: bool = False,
    sockets: Map | None = None,
) -> Attachment:
    """Let a packet function decide about every packet that comes in at an interface, in the kernel.

    where: an interface's name in the calling thread's network namespace, or an open port of one (`netmap:eth0`), whose
    rings then get what the function answers REDIRECT for, and no longer everything. mode: "driver", "generic", or ""
    for the better one that can be had (`Attachment.mode` says which). position: where in the chain of this process's
    functions on the interface, 0 is first; the end by default. succeed: take the place of a pinned firewall whose
    process has ended (`Attachment.succeeded`), and stay pinned. sockets: for an interface's name, where REDIRECT leads
    to (a map of AF_XDP sockets by queue).

    Raises PacketFunctionError or VerifierError for the function; NoSuchInterfaceError; PortBusyError, naming it, if
    somebody else's XDP program is there; PermissionNeededError; OSError; ValueError.
    """
    if mode not in ("", *MODES):
        raise ValueError(f"mode {mode!r}: one of {', '.join(MODES)} was expected, or none for the better one")
    with _lock:
        if not isinstance(where, str):
            return _attach_to_port(where, function, position)
        return _attach_to_interface(where, function, mode, position, succeed, sockets)


def _attach_to_interface(
    name: str,
    function: PacketFunction,
    mode: str,
    position: int | None,
    succeed: bool,
    sockets: Map | None,
) -> Attachment:
    index = interface_index(name)
    key = (network_namespace(), index)
    chain = _chains.get(key)
    if chain is not None and not chain.link.attached:
        # The interface that had this number is gone.
        del _chains[key]
        chain = None
    if chain is not None and mode and mode != chain.mode:
        raise PortBusyError(
            name, f"functions are attached to it in {chain.mode} mode, and {mode} was asked for"
        )
    if chain is not None and chain.pinned:
        raise PortBusyError(
            name, f"its functions are pinned at {pin_path(key)}; raceway detach {name} takes them off"
        )
    at = _position(position, len(chain.members) if chain else 0)
    loaded = LoadedFunction(function, sockets=sockets)
    left = False
    try:
        if chain is None:
            link, got, left = _link(loaded.program, index, name, mode, succeed)
            chain = _chains[key] = Chain(link, got)
            chain.members.append(loaded)
        else:
            chain.insert(at, loaded)
    except BaseException:
        loaded.close()
        raise
    made = Attachment(name, loaded, chain, key)
    if left:
        made.succeeded = chain.pinned = True
        try:
            pin_chain(chain, key)
        except BaseException:
            made.close()
            raise
    return made


def _attach_to_port(port: Any, function: PacketFunction, position: int | None) -> Attachment:
    chain: Chain | None = getattr(port, "functions", None)
    if chain is None:
        raise ValueError(_why_not(port))
    loaded = LoadedFunction(function, sockets=chain.sockets)
    try:
        chain.insert(_position(position, len(chain.members)), loaded)
    except BaseException:
        loaded.close()
        raise
    return Attachment(port.interface.name, loaded, chain, None)


def _why_not(port: Any) -> str:
    """Why functions cannot be attached to what is no interface's name, nor a port that takes them."""
    name = getattr(port, "name", None)
    options = getattr(port, "options", None)
    expected = "expected an interface's name, or a port of one that receives by AF_XDP"
    if getattr(options, "receive", "") == "memory":
        return (
            f"{name}: with rx=memory the port's program copies each frame itself, and hands none to packet functions; "
            "open it without rx=memory"
        )
    if isinstance(name, str) and getattr(port, "interface", None) is not None and not port.rx:
        return f"{name} only transmits, so it has no XDP program; {expected}"
    return f"{port if name is None else name!r} has no XDP program; {expected}"


def _position(wanted: int | None, count: int) -> int:
    if wanted is None:
        return count
    if not 0 <= wanted <= count:
        raise ValueError(f"position {wanted}: the chain has {count} functions, so 0 to {count} was expected")
    return wanted


def _link(program: Program, index: int, name: str, mode: str, succeed: bool) -> tuple[Link, str, bool]:
    """The link, its mode, and whether it is one that was left behind."""
    for how in MODES:
        if mode not in ("", how):
            continue
        try:
            return attach_xdp(program, index, how), how, False
        except PortBusyError as error:
            if succeed:
                from raceway.apps.functions.succeeding import succeeded

                found = succeeded(name, program, mode)
                if found is not None:
                    return (*found, True)
            from raceway.apps.functions.occupied import explained

            raise explained(name, error) from None
        except (PermissionError, NoSuchInterfaceError):
            raise
        except OSError as error:
            wrong = error.errno in (errno.EOPNOTSUPP, errno.ERANGE, errno.EINVAL, errno.ENOSPC)
            if mode or how == MODES[-1] or not wrong:
                raise
    raise AssertionError(f"{name}: no mode left")
