"""Questions to the kernel by netlink (RFC 3549; Documentation/userspace-api/netlink), with nothing but a socket.

A netlink socket belongs to the network namespace in which it was made, whichever thread uses it later and wherever
that thread has gone meanwhile; so does what it is told. A message and its attributes, as they lie in memory::

    | length  u32 | type u16 | flags u16 | sequence u32 | port u32 | body ...           |   NLMSG_ALIGN = 4
    | length  u16 | type u16 | payload, padded to 4 bytes ... |  length u16 | type ...  |   attributes in the body

Answers come from the kernel and are checked for its address; their lengths are checked all the same.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_GENERIC = 0, 4, 16

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTERRUPTED = 0x1, 0x4, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_GENERIC_HEADER = struct.Struct("=BBH")
_LARGEST_ANSWER = 1 << 17
_PATIENCE = 5
"""Seconds to wait for an answer. The kernel gives it before the question's system call returns."""


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def text_attribute(kind: int, text: str) -> bytes:
    """An attribute that holds a string, with the zero byte that the kernel wants at its end."""
    return attribute(kind, text.encode() + b"\0")


def number_attribute(kind: int, value: int) -> bytes:
    """An attribute that holds an unsigned 32-bit number."""
    return attribute(kind, struct.pack("=I", value))


def every_attribute(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes that lie in `data` from `start` on, in order; what does not fit ends them."""
    while start + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size or start + length > len(data):
            return
        yield kind & _TYPE_MASK, data[start + _ATTRIBUTE.size : start + length]
        start += -(-length // 4) * 4


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The same by type; the last one of a type counts."""
    return dict(every_attribute(data, start))


def number(payload: bytes | None, default: int = 0) -> int:
    """An unsigned number of 1, 2, 4 or 8 bytes in the machine's order; `default` if there is none."""
    return default if payload is None else int.from_bytes(payload[:8], sys.byteorder)


def text(payload: bytes | None) -> str:
    """A string without its closing zero byte; "" if there is none."""
    return (payload or b"").split(b"\0", 1)[0].decode(errors="replace")


class NetlinkSocket:
    """A socket of one netlink protocol, of the namespace in which the calling thread is now.

    groups: multicast groups to listen to, as bits. Several threads may ask; their questions take turns.
    """

    def __init__(self, protocol: int, groups: int = 0) -> None:
        self._lock = threading.Lock()
        self._sequence = 0
        self._families: dict[str, int] = {}
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self.socket.bind((0, groups))
            # The kernel's own patience, not Python's, which would make even MSG_DONTWAIT wait.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _PATIENCE, 0))
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                try:
                    self.socket.setsockopt(_SOL_NETLINK, option, 1)
                except OSError:
                    pass  # Linux before 4.12: errors without their sentence.
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        self.socket.close()

    def ask(self, kind: int, body: bytes, *, dump: bool = False) -> list[bytes]:
        """Ask, and return the bodies of the answers. OSError with the kernel's number and, if it has one, sentence.

        dump: every object of the kind is asked for, not one.
        """
        with self._lock:
            for _ in range(4):
                answers, interrupted = self._ask(kind, body, NLM_F_DUMP if dump else NLM_F_ACK)
                if not interrupted:
                    break
            return answers

    def ask_generic(self, family: str, command: int, body: bytes, *, dump: bool = False) -> list[bytes]:
        """The same of a generic netlink family: bodies begin after the family's header. ENOENT: it is not there."""
        if family not in self._families:
            # The controller, which has a fixed number, knows the others' (GENL_ID_CTRL, CTRL_CMD_GETFAMILY,
            # CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_FAMILY_ID).
            question = _GENERIC_HEADER.pack(3, 1, 0) + text_attribute(2, family)
            answer = self.ask(16, question)
            found = attributes(answer[0], _GENERIC_HEADER.size) if answer else {}
            if 1 not in found:
                raise OSError(errno.ENOENT, f"no generic netlink family {family}")
            self._families[family] = number(found[1])
        question = _GENERIC_HEADER.pack(command, 1, 0) + body
        answers = self.ask(self._families[family], question, dump=dump)
        return [answer[_GENERIC_HEADER.size :] for answer in answers]

    def _ask(self, kind: int, body: bytes, flags: int) -> tuple[list[bytes], bool]:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self.socket.sendto(header + body, (0, 0))
        answers: list[bytes] = []
        interrupted = False
        while True:
            try:
                data, address = self.socket.recvfrom(_LARGEST_ANSWER)
            except BlockingIOError:
                raise TimeoutError(
                    f"the kernel did not answer a netlink question for {_PATIENCE} s"
                ) from None
            if address[0] != 0:
                continue  # Any process may send to a netlink socket; only the kernel's address is 0.
            for answer_kind, answer_flags, sequence, answer in _messages(data):
                if sequence != self._sequence:
                    continue  # What an earlier question that timed out was answered.
                interrupted |= bool(answer_flags & NLM_F_DUMP_INTERRUPTED)
                if answer_kind == NLMSG_DONE:
                    code = -struct.unpack_from("=i", answer)[0] if len(answer) >= 4 else 0
                    if code > 0:
                        raise OSError(code, os.strerror(code))
                    return answers, interrupted
                if answer_kind == NLMSG_ERROR:
                    _raise_error(answer, answer_flags)
                    return answers, interrupted
                answers.append(answer)

    def heard(self) -> bool:
        """True if anything came on the multicast groups since the last call; it is thrown away.

        For a socket that only listens: who also asks with it would lose answers.
        """
        some = False
        while True:
            try:
                self.socket.recv(_LARGEST_ANSWER, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return some
            except OSError as error:
                # Too much came for the socket's buffer: what exactly is lost, that there was something is not.
                if error.errno != errno.ENOBUFS:
                    raise
            some = True


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    start = 0
    while start + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, start)
        if length < _HEADER.size or start + length > len(data):
            return
        yield kind, flags, sequence, data[start + _HEADER.size : start + length]
        start += -(-length // 4) * 4


def _raise_error(answer: bytes, flags: int) -> None:
    """Raise what an NLMSG_ERROR message says; its number 0 is the acknowledgement."""
    code = -struct.unpack_from("=i", answer)[0]
    if code == 0:
        return
    sentence = ""
    if flags & _NLM_F_ACK_TLVS:
        # The message that was wrong is repeated before the attributes, its body only if the answer is not capped.
        (length,) = struct.unpack_from("=I", answer, 4)
        start = 4 + (_HEADER.size if flags & _NLM_F_CAPPED else -(-length // 4) * 4)
        sentence = text(attributes(answer, start).get(_NLMSGERR_ATTR_MSG))
    raise OSError(code, sentence or os.strerror(code))
