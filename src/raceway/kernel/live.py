"""Live XDP frames: packets that a program makes in the kernel out of a shared array, without an sk_buff.

BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES (Documentation/bpf/bpf_prog_run.rst) runs a program over frames of
the kernel's own page pool and really does what it returns. Ours takes the next frame out of an array that user space
fills, so one endless call is a transmitter: several times as fast as AF_XDP in copy mode, and a processor of its own.
The call costs tens of milliseconds at its end and spins while it has nothing, so it runs while there is a stream and
not for a trickle::

    OFF --data plane sees a stream--> STARTING --the call is made--> RUNNING
     ^                                                                  |  the stream has dried up
     +----------- the call has ended, the array is empty <-- STOPPING <-+

While RUNNING, and only then, the data plane puts frames into the array; it uses its slow path only when the array is
empty, so packets keep their order.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import threading
import time

import numpy as np

from raceway.errors import RacewayError
from raceway.kernel.bpf.programs import xdp_context
from raceway.kernel.bpf.system import TEST_LIVE_FRAMES
from raceway.kernel.interface import Network
from raceway.kernel.redirect import FRAME_LIMIT, LIVE_CONTROL, live_frames
from raceway.memory.layout import lines
from raceway.memory.structures import structure

OFF, STARTING, RUNNING, STOPPING, REFUSED = 0, 1, 2, 3, 4

LIVE = lines(
    [("state", "<i8"), ("unwanted", "<i8")],
    [
        ("control", "<i8"),
        ("frames", "<i8"),
        ("mask", "<i8"),
        ("bell", "<i8"),
        ("insist", "<i8"),
        ("longest", "<i8"),
        ("slower", "<i8"),
        ("not_before", "<i8"),
    ],
)
"""What the data plane knows of a live run. state: see above; unwanted: the slower way is the faster one for what goes
now; control, frames: addresses; mask: frames - 1; bell: an eventfd that starts it; insist: nothing goes another way;
longest: bytes of the longest frame; slower: packets a second that went the slower way when the run was asked for;
not_before: the time on CLOCK_MONOTONIC, in nanoseconds, before which it is not to be asked for again."""
Live = structure("Live", LIVE)

FLUSHED = 64
"""Frames that the kernel collects before it sends them (NAPI_POLL_WEIGHT, its own choice for a batch)."""
_FRAMES = 2048
_LOOK = 0.005
_ENOUGH, _QUIET = 100, 3
"""Frames in a `_LOOK` (seconds) below which a stream has dried up; and how many of those in a row end the run."""
_AGAIN = 1.0
"""Seconds after which what was refused may be asked for again."""
_SETTLE, _TRIAL, _GAIN = 0.02, 0.06, 1.2
"""Seconds after which a run is measured, and for how long, and what it must be worth: times the slower way's rate. It
takes a processor for itself, and where none is to spare, or nobody sends more than the slower way takes, it loses."""
_PATIENCE, _MOST_PATIENCE = 2.0, 32.0
"""Seconds until the next trial after the first that lost; twice as long after each further one, up to the second."""
_FOR_EVER = (1 << 31) - 1
_PASSING = (errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)
_TRIES, _REST = 100, 0.01
"""A run takes its pages without waiting for memory (GFP_ATOMIC), so on a full machine it may end for want of it. That
passes: so many times in a row it is begun again, so many seconds later."""


class LiveFrames:
    """A live run for one interface, in threads of its own, which stand still as long as it is OFF.

    index: the interface that the frames leave by, or, `inject`, seem to have arrived on; longest: bytes of the longest
    frame, at most FRAME_LIMIT; insist: start for any frame. Raises OSError, PermissionNeededError, VerifierError.
    Made in the network namespace of the interface: its threads stay there.

    refusal: why the kernel would not have a run the last time, "" if it did; lost: frames that it left behind then, and
    those that a driver did not take which had taken them before; needed: bytes of the longest frame that the interface
    sends by now: there is no run while a frame has no room for that.
    """

    def __init__(self, index: int, *, longest: int, inject: bool = False, insist: bool = False) -> None:
        if not 14 <= longest <= FRAME_LIMIT:
            raise ValueError(f"frames of {longest} bytes: live frames have 14 to {FRAME_LIMIT}")
        self.index, self.inject, self.longest = index, inject, longest
        self.refusal = ""
        self.lost = 0
        self.needed = longest
        self._program, self._control_map, self._frames_map = live_frames(
            _FRAMES, out_of=0 if inject else index
        )
        self._control = self._control_map.memory()[: LIVE_CONTROL.itemsize].view(LIVE_CONTROL)[0]
        self._frames = self._frames_map.memory()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self.record = np.zeros(1, dtype=LIVE)
        record = self.record[0]
        record["control"] = self._control_map_address()
        record["frames"] = self._frames.ctypes.data
        record["mask"], record["bell"] = _FRAMES - 1, self._bell
        record["insist"], record["longest"] = int(insist), longest
        self._closing = False
        self._running = threading.Event()
        self._calling = False
        self._failures = 0
        self._patience = _PATIENCE
        self._lock = threading.Lock()
        self._network = Network()
        _install_handler()
        self._runner = threading.Thread(target=self._run, name="raceway live frames", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="raceway live watch", daemon=True)
        self._runner.start()
        self._watcher.start()

    def _control_map_address(self) -> int:
        address: int = self._control.__array_interface__["data"][0]
        return address

    @property
    def address(self) -> int:
        """Of the LIVE record."""
        address: int = self.record.ctypes.data
        return address

    @property
    def running(self) -> bool:
        return bool(self.record[0]["state"] == RUNNING)

    def reconsider(self) -> None:
        """The interface may have changed: a run that was refused may be had now, or one that goes on no longer."""
        if self.record[0]["state"] == REFUSED:
            self._lose_what_waits()
            self.refusal = ""
            self.record[0]["state"] = OFF
        elif self.running:
            self.refusal = self.obstacle()
            if self.refusal:
                self.stop()

    def stop(self) -> None:
        """End the run once the array is empty; the next stream starts another one."""
        if self.running:
            self.record[0]["state"] = STOPPING

    def _lose_what_waits(self) -> None:
        """There is no run: nobody takes these any more."""
        self.lost += self.waiting
        self._control["consumed"] = self._control["produced"]

    @property
    def sent(self) -> int:
        """Frames that the program has taken."""
        return int(self._control["consumed"])

    @property
    def waiting(self) -> int:
        """Frames in the array."""
        return int(self._control["produced"]) - int(self._control["consumed"])

    @property
    def _all_out(self) -> bool:
        """Nothing waits, and nothing that was taken is still with the call."""
        return not self.waiting and int(self._control["rounds"]) >= FLUSHED

    def _run(self) -> None:
        """The runner's thread: one endless call a stream."""
        record = self.record[0]
        frame = bytes(self.longest)
        context = xdp_context(self.longest, index=self.index if self.inject else 0)
        while True:
            # Nobody tells when a device takes frames again.
            again = _AGAIN if record["state"] == REFUSED and not record["insist"] else None
            if not select.select([self._bell], [], [], again)[0]:
                self.reconsider()
                continue
            os.eventfd_read(self._bell)
            if self._closing and not self.waiting:
                return
            self.refusal = self.obstacle()
            if self.refusal:
                record["state"] = REFUSED
                continue
            sent, lost, accepted = self.sent, self.lost, self._accepted()
            self._failures = 0
            record["state"] = RUNNING
            self._running.set()
            while not self._one_call(frame, context):
                pass
            self._running.clear()
            after = self._accepted()
            vanished = (self.sent - sent) - (self.lost - lost) - (after - accepted)
            if min(accepted, after) >= 0 and vanished > 0:
                self.lost += vanished

    def _accepted(self) -> int:
        """Redirected frames that the driver has sent so far, or dropped, by its own counts; -1 if it has none. veth
        has; and a frame for another end that has stopped wanting them is in neither."""
        if self.inject:
            return -1
        try:
            counted = self._network.statistics(self._network.interface(self.index).name)
            dropped = self._network.link_counters(self.index)["tx_dropped"]
        except (OSError, RacewayError):
            return -1
        sent = [
            value for name, value in counted.items() if name.startswith("tx_") and name.endswith("_xdp_xmit")
        ]
        return sum(sent) + dropped if sent else -1

    def _one_call(self, frame: bytes, context: bytes) -> bool:
        """Make frames until a signal ends it; True if the run is over."""
        record = self.record[0]
        with self._lock:
            self._calling = True
        try:
            self._program.test_run(frame, context=context, repeat=_FOR_EVER, flags=TEST_LIVE_FRAMES)
        except InterruptedError:
            pass
        except OSError as error:
            self._failures += 1
            if error.errno not in _PASSING or self._failures > _TRIES or self._closing:
                self.refusal = str(error)
                record["state"] = REFUSED
                self._lose_what_waits()
                return True
            time.sleep(_REST)
        finally:
            with self._lock:
                self._calling = False
        if record["state"] != STOPPING or self.waiting:
            return False
        record["state"] = OFF
        # Whoever put a frame in while it did not see STOPPING yet, sees OFF and rings; or is seen here.
        if self.waiting:
            record["state"] = STOPPING
            return False
        return True

    def obstacle(self) -> str:
        """Why there can be no run now; "" if there can."""
        if self.needed > self.longest:
            return f"frames of up to {self.needed} bytes, and the live frames of this port have at most {self.longest}"
        return self._no_injection() if self.inject else self._no_transmission()

    def _no_injection(self) -> str:
        """XDP in generic mode takes what has arrived, whoever lets it arrive: a port of ours that waits there for the
        NIC's packets would get these, and again. And the interface's receive queue must be one that XDP knows."""
        try:
            if any(attached.mode == "generic" for attached in self._network.xdp_attached(self.index)):
                return "a program in XDP's generic mode is attached to the interface, and would take them"
            if not self.running:
                context = xdp_context(self.longest, index=self.index)
                self._program.test_run(bytes(self.longest), context=context, flags=TEST_LIVE_FRAMES)
        except OSError as error:
            return str(error)
        return ""

    def _no_transmission(self) -> str:
        """Does the driver send frames that a program redirects to it? veth, only with XDP or GRO at its other end; and
        without they would be lost in silence."""
        try:
            features = self._network.xdp_features(self.index)
        except RacewayError:
            features = None
        if features is None:
            return "the kernel does not say whether the driver sends frames that XDP redirects to it"
        if "transmit" in features[0]:
            return ""
        return "the driver does not send frames that XDP redirects to it (ndo_xdp_xmit) now"

    def _watch(self) -> None:
        """The watcher's thread: ends the call when the stream has dried up."""
        while True:
            self._running.wait()
            if self._loses():
                self.stop()
            seen, quiet = int(self._control["produced"]), 0
            while self.running and self._running.is_set() and not self._closing and quiet < _QUIET:
                time.sleep(_LOOK)
                self.refusal = self.obstacle()
                if self.refusal:
                    break
                now = int(self._control["produced"])
                quiet = quiet + 1 if now - seen < _ENOUGH else 0
                seen = now
            self.stop()
            # The next run may begin before this thread has seen the end of the last one.
            while self._running.is_set() and not self.running and self._runner.is_alive():
                with self._lock:
                    if self._calling and self._all_out:
                        # Ends the call with EINTR at the run's next look for signals.
                        signal.pthread_kill(self._runner.ident or 0, _signal())
                time.sleep(0.001)
            if self._closing and not self._runner.is_alive():
                return

    def _loses(self) -> bool:
        """Measure the run that has begun against the way that it replaced; True if that was nearly as good."""
        record = self.record[0]
        slower = int(record["slower"])
        if record["insist"] or not slower:
            return False
        self._nap(_SETTLE)
        began, before = time.monotonic(), self.sent
        self._nap(_TRIAL)
        rate = (self.sent - before) / max(time.monotonic() - began, 1e-9)
        if rate >= _GAIN * slower:
            self._patience = _PATIENCE
            return False
        record["not_before"] = time.monotonic_ns() + int(self._patience * 1e9)
        self._patience = min(2 * self._patience, _MOST_PATIENCE)
        return True

    def _nap(self, seconds: float) -> None:
        """Sleep so long, or until the run or the port ends."""
        deadline = time.monotonic() + seconds
        while self.running and not self._closing and time.monotonic() < deadline:
            time.sleep(_LOOK)

    def close(self, patience: float = 1.0) -> None:
        """End the run when the array is empty, or after `patience` seconds."""
        if self._closing:
            return
        self._closing = True
        deadline = time.monotonic() + patience
        while self._runner.is_alive():
            if time.monotonic() > deadline:
                self._lose_what_waits()
            os.eventfd_write(self._bell, 1)
            self._runner.join(0.002)
        self._running.set()
        self._watcher.join()
        os.close(self._bell)
        self._network.close()
        for part in (self._program, self._control_map, self._frames_map):
            part.close()


def _signal() -> int:
    # Real-time signals have no meaning of their own; the first few are glibc's, the last ones often a debugger's.
    return int(signal.SIGRTMIN) + 11


_libc = ctypes.CDLL(None, use_errno=True)
_installed = False


class _Action(ctypes.Structure):
    """glibc's struct sigaction."""

    _fields_ = [
        ("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]  # fmt: skip


def _install_handler() -> None:
    """Let the signal interrupt a system call and do nothing else. Python's own handlers run in the main thread only,
    and only that may set them; so this one is a C function without any effect."""
    global _installed
    if _installed:
        return
    action = _Action(handler=ctypes.cast(_libc.abs, ctypes.c_void_p).value)
    if _libc.sigaction(_signal(), ctypes.byref(action), None) != 0:
        raise OSError(ctypes.get_errno(), "sigaction")
    _installed = True
