"""Wait until something in the guest is so, by asking again and again, with a deadline."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Protocol

from pytest_kvm.errors import CommandTimeout, KvmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_kvm.result import Result

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Run(Protocol):
    """``guest.run``, as far as waiting needs it."""

    def __call__(self, command: str, *, check: bool, timeout: float) -> Result:
        """Run a command and return its result."""


def until_succeeds(
    run: Run,
    command: str,
    *,
    timeout: float,
    what: str | None = None,
    hopeless: Callable[[Result], bool] = lambda _: False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Run a command until it returns 0.

    :param what: what is awaited, for the error; the command itself when not given.
    :param hopeless: tells by a result that waiting longer is of no use.
    :return: the result of the run that succeeded.
    :raise CommandTimeout: when it has not succeeded in time, with its last output as a note.
    :raise KvmError: when it is hopeless.
    """
    deadline = clock() + timeout
    pause = _FIRST_PAUSE
    while True:
        result = run(command, check=False, timeout=max(1.0, deadline - clock()))
        if result.returncode == 0:
            return result
        given_up = hopeless(result)
        if given_up or clock() + pause > deadline:
            said = (result.stdout + result.stderr).strip() or "nothing"
            why = "will not come" if given_up else f"not so within {timeout:g} s"
            error: KvmError = (KvmError if given_up else CommandTimeout)(f"{what or command}: {why}")
            error.add_note(f"The last try returned {result.returncode} and said: {said[-2000:]}")
            raise error
        sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 2)


def port_listens(port: int) -> str:
    """Return a command that succeeds when something in the guest listens on a TCP port.

    The kernel's table is asked: a connection through QEMU's user network is accepted before the guest is.
    """
    listening = f"^ *[0-9]*: [0-9A-F]*:{port:04X} [0-9A-F]*:0000 0A "
    return f"cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q {shlex.quote(listening)}"


def unit_is_active(unit: str) -> str:
    """Return a command that succeeds when a systemd unit is active, and prints its state."""
    return f"systemctl is-active -- {shlex.quote(unit)}"


def file_exists(path: str) -> str:
    """Return a command that succeeds when a path exists."""
    return f"[ -e {shlex.quote(path)} ]"
