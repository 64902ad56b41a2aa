"""Commands through virtio-serial ports: the fastest channel, served in the guest by ``assets/shell``.

One port each for control, standard output and standard error, so nothing is captured or encoded in the guest
and a command costs it one fork. The ports are drained all the time: a guest whose port is not read spins in
its kernel.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_kvm.channels.base import timed_out
from pytest_kvm.errors import CommandTimeout
from pytest_kvm.result import Result, make_result, readable, shell_text

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from pytest_kvm.channels.loop import LoopThread

PORTS = ("control", "stdout", "stderr")
PORT_PREFIX = "org.pytest-kvm."
# How long a killed command may take to be gone before the guest counts as hung.
_KILL_GRACE, _INTERRUPT_GRACE = 10.0, 1.0


class PortShell:
    """Runs commands, one at a time; further ones wait their turn."""

    def __init__(
        self, loop: LoopThread, control: socket.socket, stdout: socket.socket, stderr: socket.socket
    ):
        self._loop = loop
        self._control, self._stdout, self._stderr = self._sockets = (control, stdout, stderr)
        self._turn = threading.Lock()
        self._arrived = threading.Condition()
        self._partial = b""
        self._out, self._err = bytearray(), bytearray()
        self._status: int | None = None
        self._ready = self._killed = self._busy = self._gone = self._closed = False
        loop.drain(control, self._heard)
        loop.drain(stdout, self._out.extend)
        loop.drain(stderr, self._err.extend)

    def wait_ready(self, timeout: float) -> None:
        """Wait for the guest's "ready"; see :class:`~pytest_kvm.channels.base.CommandChannel`."""
        if not self._wait(lambda: self._ready, timeout):
            raise TimeoutError("the guest's command shell did not answer")

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float,
        input: bytes = b"",
        env: dict[str, str] | None = None,
    ) -> Result:
        """Run one command; see :class:`~pytest_kvm.channels.base.CommandChannel`."""
        script = shell_text(command, env).encode()
        header = b"%d %d\n" % (script.count(b"\n") + 1, len(input))
        deadline = time.monotonic() + timeout
        with self._turn:
            if self._gone:
                raise ConnectionError("the guest is gone")
            if self._busy:
                raise CommandTimeout("an earlier command hangs in the guest and could not be killed")
            self._busy, self._status, self._killed = True, None, False
            # What a background process of an earlier command printed meanwhile is nobody's.
            self._out.clear()
            self._err.clear()
            try:
                self._loop.send(self._control, header + script + b"\n", timeout)
                if input:
                    self._loop.send(self._stdout, input, max(0.0, deadline - time.monotonic()))
                ended = self._wait(lambda: self._status is not None, deadline - time.monotonic())
            except TimeoutError:
                ended = False
            except ConnectionError:
                self._gone = True
                raise
            except BaseException:  # an interrupt: the guest may be used again, as one of a wider scope
                self._kill(_INTERRUPT_GRACE)
                raise
            if not ended:
                self._kill(_KILL_GRACE)
                outcome = "could not be killed: the guest hangs" if self._busy else "was killed"
                printed, complained = readable(bytes(self._out)), readable(bytes(self._err))
                raise timed_out(command, timeout, outcome, stdout=printed, stderr=complained)
            self._busy = False
            return make_result(command, self._status or 0, bytes(self._out), bytes(self._err))

    def restarted(self) -> None:
        """Wait for another "ready"; see :class:`~pytest_kvm.channels.base.CommandChannel`."""
        with self._arrived:
            self._ready = self._busy = False
            self._partial = b""

    def close(self) -> None:
        """Close the ports' host ends."""
        if not self._closed:
            self._closed = True
            self._loop.release(*self._sockets)

    def _kill(self, grace: float) -> None:
        """Kill the running command, and wait until both it and its killer have answered.

        Otherwise the kill could hit the next command. While one of them has not, the channel stays busy.
        """
        with suppress(TimeoutError):
            self._loop.send(self._stderr, b"kill\n", grace)
            self._busy = not self._wait(lambda: self._killed and self._status is not None, grace)

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._arrived:
            held = self._arrived.wait_for(lambda: condition() or self._gone, max(0.0, timeout))
            if self._gone and not condition():
                raise ConnectionError("the guest is gone")
            return held

    def _heard(self, data: bytes) -> None:
        """Take what the guest says on its control port; runs on the loop thread."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if any(line.startswith(b"exit ") for line in lines):
            # The guest wrote its output before, so it is in the sockets, though perhaps not yet read.
            self._out.extend(_read_available(self._stdout))
            self._err.extend(_read_available(self._stderr))
        with self._arrived:
            self._gone = self._gone or not data
            for line in lines:
                self._ready = self._ready or line == b"ready"
                self._killed = self._killed or line == b"killed"
                if line.startswith(b"exit "):
                    self._status = int(line[5:])
            self._arrived.notify_all()


def _read_available(sock: socket.socket) -> bytes:
    data = bytearray()
    try:
        while piece := sock.recv(1 << 16):
            data += piece
    except OSError:
        pass  # nothing more now; an end is seen by the control port too
    return bytes(data)
