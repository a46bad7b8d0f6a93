"""Network namespaces: visiting them, making them, giving them names (network_namespaces(7), setns(2)).

    with namespaces.inside("/var/run/netns/left"):      # this thread, and no other
        port = raceway.open("netmap:veth0")             # what is made here stays there

A namespace belongs to a *thread*. A socket belongs to the namespace in which it was made, wherever it is used later,
and a child process begins in the namespace of the thread that started it: so neither needs anything between fork and
exec. /proc/net and /proc/PID/ns/net, however, tell of the process's *main* thread.

Coming back is itself a privilege. A process that `unshare -Ur` has made root of a user namespace may enter what it
makes, and may not return to the machine's own namespace, which belongs to another user namespace. `inside` finds
that out before it goes. What need not come back goes by `in_thread`: the thread that went there ends there.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from raceway.kernel.capabilities import missing, refused

DIRECTORY = "/var/run/netns"
"""Where `ip netns` keeps the names."""

_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNS, _CLONE_NEWNET = 0x0002_0000, 0x4000_0000  # <linux/sched.h>
_MS_BIND, _MS_REC, _MS_SLAVE, _MS_SHARED = 1 << 12, 1 << 14, 1 << 19, 1 << 20  # <linux/mount.h>
_MNT_DETACH = 2
_REFUSALS = (errno.EPERM, errno.EACCES)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)

_Result = TypeVar("_Result")


def current() -> int:
    """A new descriptor of the namespace in which the calling thread is. It keeps the namespace alive."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def identity(where: int | str | None = None) -> tuple[int, int]:
    """Device and inode of a namespace: equal for two descriptors or paths of the same one. None: the thread's own."""
    status = os.stat(_OWN if where is None else where)
    return status.st_dev, status.st_ino


def is_namespace(path: str) -> bool:
    """Whether a namespace stands under this name, and not just a file that waits for one."""
    try:
        return identity(path)[0] == identity()[0]
    except FileNotFoundError:
        return False


def enter(where: int | str) -> None:
    """Take the calling thread into a namespace, for good: meant for threads that end there, and before exec.

    where: a descriptor, or a path. OSError if there is none; PermissionNeededError without CAP_SYS_ADMIN.
    """
    if isinstance(where, int):
        _enter(where, f"descriptor {where}")
        return
    descriptor = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(descriptor, where)
    finally:
        os.close(descriptor)


@contextmanager
def inside(where: int | str) -> Iterator[None]:
    """Take the calling thread into a namespace and, whatever happens, back. Other threads stay where they are.

    In a coroutine, no `await` may stand inside: others would run in the namespace meanwhile.
    """
    home, thread = current(), threading.get_ident()
    try:
        try:
            _enter(home, "its own")
        except PermissionError as error:
            if missing(["CAP_SYS_ADMIN"]):
                raise
            # Better not to go than to be unable to return.
            raise PermissionError(
                errno.EPERM,
                "this process could go to network namespaces of its own and not come back to the one it is in, which "
                "belongs to another user namespace; start it with a network namespace too: unshare -Urn COMMAND",
            ) from error
        try:
            enter(where)
            yield
        finally:
            if threading.get_ident() != thread:
                raise RuntimeError("namespaces.inside was entered in one thread and left in another")
            _enter(home, "its own")
    finally:
        os.close(home)


def in_thread(work: Callable[[], _Result]) -> _Result:
    """Call `work` in a thread made for it, which may enter any namespace and need not come back.

    Returns and raises what `work` does. Ctrl-C waits until `work` is done, so that nothing is left half-way.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="raceway namespace visit")
    try:
        with _ctrl_c_later():
            thread.start()
            thread.join()
        if errors:
            raise errors[0]
        return results[0]
    finally:
        # An error refers to this frame by its trace; without this, the frame would refer to the error for ever.
        errors.clear()


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Put off what Ctrl-C does until the end, however often it is pressed. Only the main thread is ever disturbed."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    caught: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if caught:
        usual(signal.SIGINT, caught[0])


def leave_for_new() -> None:
    """Take the calling thread, for good, into a new and empty network namespace, in which not even lo is up."""
    if _libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        if number in _REFUSALS:
            raise refused("making a network namespace", ["CAP_SYS_ADMIN"])
        raise OSError(number, f"making a network namespace: {_explained(number)}")


def anonymous() -> int:
    """A descriptor of a new network namespace without a name. It lives as long as this, and whatever else is in it."""

    def work() -> int:
        leave_for_new()
        return current()

    return in_thread(work)


def give_name(path: str) -> None:
    """Give the calling thread's namespace a name in `DIRECTORY`, as `ip netns add` does; FileExistsError if taken."""
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, exist_ok=True)
        _share(directory)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        try:
            _mount(_OWN, path, None, _MS_BIND)
        except BaseException:
            os.unlink(path)
            raise
    except PermissionError as error:
        raise refused(
            f"giving a network namespace the name {path}",
            ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_DAC_OVERRIDE"],
        ) from error


def take_name(path: str) -> None:
    """Undo `give_name`, at whatever point it was stopped. The namespace ends when nothing else is in it."""
    try:
        if _libc.umount2(path.encode(), _MNT_DETACH):
            number = ctypes.get_errno()
            # EINVAL: nothing is mounted there; ENOENT: nothing is there.
            if number not in (errno.EINVAL, errno.ENOENT):
                raise OSError(number, os.strerror(number), path)
        os.unlink(path)
    except FileNotFoundError:
        pass
    except PermissionError as error:
        raise refused(f"removing {path}", ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]) from error


def own_sysfs() -> None:
    """Let the calling thread, and what it starts, see at /sys the network namespace in which it is now.

    A sysfs shows the interfaces of the namespace in which it was mounted. So the thread gets a mount namespace of its
    own, in which a new one lies over the old; only for threads that end soon, and before exec.
    """
    if _libc.unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        if number in _REFUSALS:
            raise refused("making a mount namespace", ["CAP_SYS_ADMIN"])
        raise OSError(number, f"making a mount namespace: {os.strerror(number)}")
    # What the machine mounts and unmounts later still comes here; what is mounted here stays here.
    _mount("none", "/", None, _MS_REC | _MS_SLAVE)
    # Other file systems lie in /sys, and would be hidden: that of pinned BPF objects, and the control groups.
    kept = {
        path: os.open(path, os.O_PATH) for path in ("/sys/fs/bpf", "/sys/fs/cgroup") if os.path.ismount(path)
    }
    try:
        _mount("raceway", "/sys", "sysfs", 0)
        for path, descriptor in kept.items():
            _mount(f"/proc/thread-self/fd/{descriptor}", path, None, _MS_BIND | _MS_REC)
    finally:
        for descriptor in kept.values():
            os.close(descriptor)


def _enter(descriptor: int, name: str) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        raise refused("entering a network namespace", ["CAP_SYS_ADMIN"])
    if number == errno.EINVAL:
        raise OSError(number, f"{name}: expected a network namespace")
    raise OSError(number, f"entering a network namespace: {os.strerror(number)}", name)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, None):
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {kind or source}: {os.strerror(number)}", target)


def _share(directory: str) -> None:
    """Make names come and go in other mount namespaces too: the directory is a mount point, and a shared one.

    Otherwise a process that copied the mounts, as any service of systemd does, would keep a namespace alive that was
    deleted here. As in iproute2, under the same lock.
    """
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _mount("", directory, "none", _MS_SHARED | _MS_REC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _mount(directory, directory, "none", _MS_BIND | _MS_REC)
            _mount("", directory, "none", _MS_SHARED | _MS_REC)
    finally:
        os.close(lock)


def _explained(number: int) -> str:
    if number == errno.EINVAL:
        return "this kernel has none (CONFIG_NET_NS)"
    if number == errno.ENOSPC:
        return "there are too many (/proc/sys/user/max_net_namespaces)"
    return os.strerror(number)
