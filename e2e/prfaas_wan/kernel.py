"""The few system calls that Python 3.11 does not offer: network namespaces and TUN devices."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prfaas_wan.errors import WanError

_CLONE_NEWNET = 0x40000000
_OWN_NAMESPACE = Path("/proc/thread-self/ns/net")

TUN_DEVICE = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM = 0x01
_TUN_F_TSO4 = 0x02
_TUN_F_TSO6 = 0x04
_TUN_F_TSO_ECN = 0x08

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def own_namespace() -> int:
    """A descriptor of the calling thread's network namespace; the caller closes it."""
    return os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)


def enter_namespace(descriptor: int) -> None:
    """Move the calling thread, and only it, into a network namespace."""
    _check(_libc.setns(descriptor, _CLONE_NEWNET), "setns")


@contextmanager
def inside_namespace(descriptor: int) -> Iterator[None]:
    """The calling thread is in the namespace for the block. Sockets opened in it stay there."""
    outside = own_namespace()
    try:
        enter_namespace(descriptor)
        try:
            yield
        finally:
            enter_namespace(outside)
    finally:
        os.close(outside)


def new_namespace() -> int:
    """A descriptor of a new network namespace, which lives as long as the descriptor or anything inside."""
    outside = own_namespace()
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        try:
            return own_namespace()
        finally:
            enter_namespace(outside)
    finally:
        os.close(outside)


def open_tun(name: str) -> int:
    """A TUN device in the calling thread's namespace. It carries super-packets of up to 64 KB behind
    virtio-net headers and disappears when the descriptor is closed."""
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN)
    except OSError as error:
        os.close(descriptor)
        raise WanError("NoTun", f"this kernel refused a TUN device with TSO: {error}") from error
    return descriptor
