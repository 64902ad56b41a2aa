"""Commands through virtio-serial ports: the fastest channel, served in the guest by ``assets/shell``.

One port each for control, standard output and standard error, so nothing is captured or encoded in the guest
and a command costs it one fork. The ports have no common order, so each stream ends with a mark that no
command can know. They are drained all the time: a process whose port is not read stands still.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from secrets import token_hex
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
        self._mark = b"\n"
        self._open_ports = len(self._sockets)
        self._ready = self._killed = self._busy = self._gone = self._closed = False
        loop.drain(control, self._heard)
        loop.drain(stdout, lambda data: self._printed(self._out, data))
        loop.drain(stderr, lambda data: self._printed(self._err, data))

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
        with self._turn:
            if self._gone:
                raise ConnectionError("the guest is gone")
            if self._busy:
                raise CommandTimeout("an earlier command hangs in the guest and could not be killed")
            try:
                ended = self._submit(script, input, time.monotonic() + timeout)
            except ConnectionError:
                self._gone = True
                raise
            except BaseException:  # an interrupt: the guest may be used again, as one of a wider scope
                self._kill(_INTERRUPT_GRACE)
                raise
            if not ended:
                self._kill(_KILL_GRACE)
                outcome = "could not be killed: the guest hangs" if self._busy else "was killed"
                printed, complained = map(readable, self._take_output())
                raise timed_out(command, timeout, outcome, stdout=printed, stderr=complained)
            self._busy = False
            return make_result(command, self._status or 0, *self._take_output())

    def _submit(self, script: bytes, data: bytes, deadline: float) -> bool:
        """Hand the guest a command and wait for its end; tell whether it came in time."""
        mark = token_hex(8).encode()
        self._busy, self._status, self._killed, self._mark = True, None, False, mark + b"\n"
        self._take_output()  # what a background process printed meanwhile is nobody's
        header = b"%d %d %s\n" % (script.count(b"\n") + 1, len(data), mark)
        try:
            self._loop.send(self._control, header + script + b"\n", deadline - time.monotonic())
            if data:
                self._loop.send(self._stdout, data, max(0.0, deadline - time.monotonic()))
            return self._wait(self._has_ended, deadline - time.monotonic())
        except TimeoutError:
            return False

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
            self._busy = not self._wait(lambda: self._killed and self._has_ended(), grace)

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._arrived:
            held = self._arrived.wait_for(lambda: condition() or self._gone, max(0.0, timeout))
            if self._gone and not condition():
                raise ConnectionError("the guest is gone")
            return held

    def _heard(self, data: bytes) -> None:
        """Take what the guest says on its control port; runs on the loop thread."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        with self._arrived:
            self._count_ends(data)
            for line in lines:
                self._ready = self._ready or line == b"ready"
                self._killed = self._killed or line == b"killed"
                if line.startswith(b"exit "):
                    self._status = int(line[5:])
            self._arrived.notify_all()

    def _printed(self, stream: bytearray, data: bytes) -> None:
        """Take what a command prints; runs on the loop thread."""
        with self._arrived:
            stream.extend(data)
            self._count_ends(data)
            if self._status is not None or self._gone:
                self._arrived.notify_all()

    def _count_ends(self, data: bytes) -> None:
        """Know that the guest is gone once every port has ended: until then output may be under way."""
        self._open_ports -= not data
        self._gone = self._gone or self._open_ports == 0

    def _has_ended(self) -> bool:
        return self._status is not None and self._mark in self._out and self._mark in self._err

    def _take_output(self) -> tuple[bytes, bytes]:
        """Return what came on both streams before their marks, and forget it all."""
        with self._arrived:
            out, err = (bytes(stream.partition(self._mark)[0]) for stream in (self._out, self._err))
            self._out.clear()
            self._err.clear()
            return out, err
