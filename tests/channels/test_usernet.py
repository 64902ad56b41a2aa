"""Forwarded ports, read from what QEMU prints about its user network."""

from __future__ import annotations

import pytest

from pytest_kvm.channels import usernet
from pytest_kvm.errors import KvmError

TABLE = (
    "Hub -1 (net0):\n"
    "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
    "  TCP[HOST_FORWARD]  12       127.0.0.1 41235       10.0.2.15    22     0     0\n"
)
MORE = TABLE + (
    "  TCP[ESTABLISHED]   14       127.0.0.1 41235       10.0.2.15    22     0     0\n"
    "  UDP[HOST_FORWARD]  15       127.0.0.1 41299       10.0.2.15    53     0     0\n"
    "  TCP[HOST_FORWARD]  16               * 41236       10.0.2.15    80     0     0\n"
)


class Monitor:
    """A human monitor whose table gains a line when a port is added."""

    def __init__(self, table: str, *, refuses: str = "") -> None:
        self.table, self.refuses = table, refuses
        self.asked: list[str] = []

    def __call__(self, line: str) -> str:
        self.asked.append(line)
        if line == "info usernet":
            return self.table
        if self.refuses:
            return self.refuses
        port = line.rpartition(":")[2]
        self.table += f"  TCP[HOST_FORWARD]  20       127.0.0.1 50000       10.0.2.15  {port}     0     0\n"
        return ""


def test_a_port_that_is_forwarded_already() -> None:
    """It is only looked up: no second one is opened."""
    monitor = Monitor(MORE)
    assert usernet.forward(monitor, "net0", 22) == ("127.0.0.1", 41235)
    assert usernet.forward(monitor, "net0", 80) == ("*", 41236)
    assert set(monitor.asked) == {"info usernet"}


def test_a_port_that_is_not() -> None:
    """A free port of the loopback interface is opened, once."""
    monitor = Monitor(MORE)
    assert usernet.forward(monitor, "net0", 53) == ("127.0.0.1", 50000), "UDP's port 53 is another"
    assert usernet.forward(monitor, "net0", 53) == ("127.0.0.1", 50000)
    assert [line for line in monitor.asked if line != "info usernet"] == [
        "hostfwd_add net0 tcp:127.0.0.1:0-:53"
    ]


def test_a_refusal() -> None:
    """QEMU's own words are in the error."""
    monitor = Monitor(TABLE, refuses="unknown network 'net9'\n")
    with pytest.raises(KvmError, match=r"^forward: QEMU does not forward port 80: unknown network 'net9'$"):
        usernet.forward(monitor, "net9", 80)
