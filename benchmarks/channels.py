"""Which channel answers a command first: ``python benchmarks/channels.py [IMAGE] [ROUNDS]``.

On one guest that has them all (debian-12 by default), each channel runs ``true`` in turn. Printed are medians
in milliseconds, and as a ratio to a shell that already waits on a serial port and forks and executes it too.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from pytest_kvm import Guest, GuestConfig
from pytest_kvm.channels.ssh import SshShell

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_kvm.channels.base import CommandChannel


def console_shell(guest: Guest) -> Callable[[], None]:
    """Return a function that has a shell on the second serial port run the command."""
    port = guest.consoles["second"]
    guest.run("setsid sh -c 'stty -echo; exec sh' </dev/ttyS1 >/dev/ttyS1 2>&1 &")

    def ask() -> None:
        port.sendline("/bin/true; echo d''one")
        port.expect_exact("done")

    ask()
    return ask


def main(image: str, rounds: int) -> None:
    """Boot one guest and measure."""
    with Guest(GuestConfig(image=image, serials=["socket,id=second"]), say=print) as guest:
        launch = guest._live()
        found: dict[str, CommandChannel] = {"ssh": SshShell(guest._ssh_login())}
        if launch.shell is not None:
            found["ports"] = launch.shell
        if "agent" in guest.image.channels:
            from pytest_kvm.channels.agent import GuestAgent

            found["agent"] = GuestAgent(launch.loop, launch.agent_socket)
        ways: dict[str, Callable[[], object]] = {"console": console_shell(guest)}
        for name, channel in found.items():
            channel.wait_ready(120)
            ways[name] = lambda channel=channel: channel.run("/bin/true", timeout=60)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, ask in ways.items():
                began = time.monotonic()
                ask()
                times[name].append(time.monotonic() - began)
        base = median(times["console"])
        print(f"{image} under {guest.accel}, {rounds} rounds")
        for name, seconds in sorted(times.items(), key=lambda pair: median(pair[1])):
            print(f"{name:8} {median(seconds) * 1000:7.1f} ms  {median(seconds) / base:5.2f}")
        for channel in found.values():
            channel.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "debian-12", int(sys.argv[2]) if len(sys.argv) > 2 else 30)
