"""Ports of the guest on this host's loopback interface, through QEMU's user network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_kvm.errors import KvmError

if TYPE_CHECKING:
    from collections.abc import Callable

# "info usernet" of QEMU: protocol and state, descriptor, then host and guest address and port.
_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)")


def forward(hmp: Callable[[str], str], netdev: str, port: int) -> tuple[str, int]:
    """Forward a free port of 127.0.0.1 to a TCP port of the guest, once.

    :param hmp: executes a line of the human monitor.
    :param netdev: id of a ``user`` network.
    :return: host and port to connect to.
    :raise KvmError: when QEMU refuses.
    """
    known = _table(hmp)
    if port not in known:
        complaint = hmp(f"hostfwd_add {netdev} tcp:127.0.0.1:0-:{port}")
        known = _table(hmp)
        if port not in known:
            raise KvmError(f"forward: QEMU does not forward port {port}: {complaint.strip()}")
    return known[port]


def _table(hmp: Callable[[str], str]) -> dict[int, tuple[str, int]]:
    return {int(guest): (host, int(port)) for host, port, guest in _FORWARD.findall(hmp("info usernet"))}
