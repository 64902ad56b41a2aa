"""A running QEMU, behind its supervisor."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm.result import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_START_TIMEOUT = 30.0
_END_TIMEOUT = 10.0


class Process:
    """QEMU's process. It ends with this process, with :meth:`close`, and with its supervisor.

    :ivar pid: QEMU's process id.
    :ivar exit_code: ``None`` while it runs, negative for a signal.
    """

    def __init__(self, argv: Sequence[str], directory: Path, lock: int, descriptors: Iterable[int]) -> None:
        """Start it.

        :param directory: the run directory, removed when all is over.
        :param lock: descriptor that holds the directory's lock; belongs to the supervisor from now on.
        :param descriptors: what QEMU inherits.
        """
        self.argv, self.directory = tuple(argv), directory
        self.pid: int | None = None
        self.exit_code: int | None = None
        self._messages = b""
        self._reading = threading.Lock()
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(theirs.fileno()), str(lock)]
        try:
            self._supervisor = subprocess.Popen(
                [*command, str(os.getpid()), str(directory), *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lock, *descriptors),
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
        os.close(lock)

    @property
    def words(self) -> str:
        """What QEMU printed on its standard output and error."""
        try:
            return readable((self.directory / "qemu.log").read_bytes())
        except FileNotFoundError:
            return ""

    def wait_started(self) -> int | None:
        """Wait until QEMU's process exists and return its id."""
        self._read_until(lambda: self.pid is not None or self.exit_code is not None, _START_TIMEOUT)
        return self.pid

    def wait(self, timeout: float) -> int | None:
        """Wait until QEMU has ended and return its exit code; ``None`` when the time is over."""
        self._read_until(lambda: self.exit_code is not None, timeout)
        return self.exit_code

    def poll(self) -> int | None:
        """Return QEMU's exit code, or ``None`` while it runs."""
        return self.wait(0)

    def terminate(self) -> None:
        """Ask QEMU to end (SIGTERM)."""
        self._say(b"T")

    def kill(self) -> None:
        """End QEMU (SIGKILL)."""
        self._say(b"K")

    def close(self) -> None:
        """End QEMU if it still runs, and wait until it, its supervisor and the run directory are gone."""
        self._control.close()
        try:
            self._supervisor.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()  # QEMU has a parent-death signal on it
            self._supervisor.wait()
        if self.exit_code is None:
            self.exit_code = -signal.SIGKILL

    def _say(self, word: bytes) -> None:
        with suppress(OSError):  # there is nobody left to tell
            self._control.send(word)

    def _read_until(self, condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        poll = select.poll()  # select() knows no descriptor beyond 1023
        with self._reading:
            while not condition() and self._control.fileno() >= 0:
                poll.register(self._control, select.POLLIN)
                if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                    return
                try:
                    data = self._control.recv(4096)
                except ConnectionResetError:  # it left a word of ours unread
                    data = b""
                if not data:  # the supervisor is gone, and QEMU with it
                    self.exit_code = -9 if self.exit_code is None else self.exit_code
                    return
                self._take(data)

    def _take(self, data: bytes) -> None:
        *lines, self._messages = (self._messages + data).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"pid":
                self.pid = int(value)
            elif word == b"exit":
                self.exit_code = int(value)
