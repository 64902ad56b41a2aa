"""The serial console: drained from the first byte, logged in full, and a pexpect object to the test.

An unread console stops the guest after a few hundred bytes, so the loop thread reads it from the start;
``expect`` works on what has arrived. pexpect's own socket spawns either do not decode, do not log, or block.
"""

from __future__ import annotations

import codecs
import threading
import time
from typing import TYPE_CHECKING, Any

from pexpect import EOF, TIMEOUT
from pexpect.spawnbase import SpawnBase

from pytest_kvm.errors import ConsoleTimeout, with_console
from pytest_kvm.result import printable, readable

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from pytest_kvm.channels.loop import LoopThread

# A terminal's line buffer in the guest holds 4096 bytes and drops what comes on top; a reader needs time.
_PASTE_CHUNK = 256
_PASTE_PAUSE = 0.01
_TAIL_LINES = 20


if TYPE_CHECKING:
    _Spawn = SpawnBase[str]
else:
    _Spawn = SpawnBase


class Console(_Spawn):
    """A serial port of the guest.

    All of :class:`pexpect.spawnbase.SpawnBase` is here: ``expect``, ``expect_exact``, ``expect_list``,
    ``before``, ``after``, ``match``. A pattern that does not come raises :exc:`~pytest_kvm.ConsoleTimeout`,
    which is a ``pexpect.TIMEOUT`` too; with ``pexpect.TIMEOUT`` in the list its index is returned, as ever.

    :ivar log: path of the full raw log.
    """

    def __init__(self, loop: LoopThread, sock: socket.socket, log: Path, *, timeout: float = 30) -> None:
        super().__init__(timeout=timeout, encoding="utf-8", codec_errors="backslashreplace")
        self.log = log
        self.name = f"<console {log.name}>"
        self.closed = False
        self.maxread = 1 << 16
        self.delayafterread = None
        self._loop, self._sock = loop, sock
        self._file = log.open("ab", buffering=0)
        self._arrived = threading.Condition()
        self._pending: list[str] = []
        self._ended = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        loop.drain(sock, self._received)

    @property
    def text(self) -> str:
        r"""All that was printed so far; bytes that are no UTF-8 are readable as ``\xff``."""
        return readable(self.log.read_bytes())

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines that are not empty, fit for an error message."""
        kept = [line.rstrip() for line in printable(self.text).split("\n") if line.strip()]
        return "\n".join(kept[-lines:])

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """Return what has arrived, waiting for at least one character.

        :raise pexpect.TIMEOUT: when nothing came within ``timeout`` seconds.
        :raise pexpect.EOF: when the guest is gone and everything was read.
        """
        seconds = self.timeout if timeout == -1 else timeout
        with self._arrived:
            self._arrived.wait_for(lambda: self._pending or self._ended, seconds)
            if self._pending:
                arrived = "".join(self._pending)
                data, rest = arrived[:size], arrived[size:]
                self._pending = [rest] if rest else []
                self._note(data, "read")
                return data
            if self._ended:
                self.flag_eof = True
                raise EOF("the console has ended: the guest is gone")
        raise TIMEOUT("the console is silent")

    def expect_list(  # type: ignore[override]  # pexpect overloads it for its own event loop
        self, pattern_list: Any, timeout: float | None = -1, searchwindowsize: int | None = -1, *_: object
    ) -> int:
        """Wait for one of the compiled patterns; ``expect`` comes here too."""
        try:
            return int(super().expect_list(pattern_list, timeout, searchwindowsize))
        except TIMEOUT as error:
            raise self._timed_out(pattern_list, timeout) from error

    def expect_exact(  # type: ignore[override]  # likewise
        self, pattern_list: Any, timeout: float | None = -1, searchwindowsize: int | None = -1, *_: object
    ) -> int:
        """Wait for one of the texts."""
        try:
            return int(super().expect_exact(pattern_list, timeout, searchwindowsize))
        except TIMEOUT as error:
            raise self._timed_out(pattern_list, timeout) from error

    def send(self, text: str | bytes) -> int:
        """Type text, in pieces that a slow reader can take; return the number of bytes."""
        data = text if isinstance(text, bytes) else text.encode()
        self._note(text if isinstance(text, str) else readable(text), "send")
        for start in range(0, len(data), _PASTE_CHUNK):
            if start:
                time.sleep(_PASTE_PAUSE)
            self._loop.send(self._sock, data[start : start + _PASTE_CHUNK], timeout=30)
        return len(data)

    def sendline(self, text: str | bytes = "") -> int:
        """Type text and Enter."""
        return self.send(text) + self.send("\n")

    def sendcontrol(self, char: str) -> int:
        """Type a control character: ``sendcontrol("c")`` is Ctrl-C."""
        return self.send(bytes([ord(char.upper()) & 0x1F]))

    def write(self, text: str | bytes) -> None:
        """Type text."""
        self.send(text)

    def isalive(self) -> bool:
        """Tell whether more can come."""
        return not self._ended

    def interact(self, escape_character: str = "\x1d") -> None:
        """Join this terminal and the console until Ctrl-] is typed or the guest ends."""
        from pytest_kvm.channels.terminal import join_terminal

        join_terminal(self, escape_character.encode())

    def wait_ended(self, timeout: float) -> None:
        """Wait until the last byte of a guest that has ended is in the log."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._ended, timeout)

    def close(self) -> None:
        """Stop reading; the log stays. May be called twice."""
        if not self.closed:
            self.closed = True
            self._loop.release(self._sock)
            self._file.close()

    def _note(self, text: str, direction: str) -> None:
        """Write to the user's ``logfile``, ``logfile_read`` and ``logfile_send``, as pexpect does."""
        for file in (self.logfile, self.logfile_read if direction == "read" else self.logfile_send):
            if file is not None:
                file.write(text)
                file.flush()

    def _timed_out(self, patterns: Any, timeout: float | None) -> ConsoleTimeout:
        each = patterns if isinstance(patterns, list | tuple) else [patterns]
        wanted = " or ".join(repr(getattr(pattern, "pattern", pattern)) for pattern in each)
        seconds = self.timeout if timeout == -1 else timeout
        error = _PexpectTimeout(f"the console did not say {wanted} within {seconds:g} s")
        return with_console(error, self.tail())

    def _received(self, data: bytes) -> None:
        if data:
            self._file.write(data)
        with self._arrived:
            if text := self._utf8.decode(data, final=not data):
                self._pending.append(text)
            self._ended = not data
            self._arrived.notify_all()


class _PexpectTimeout(ConsoleTimeout, TIMEOUT):
    """Both of what a user may catch."""

    def __init__(self, message: str) -> None:
        ConsoleTimeout.__init__(self, message)
        self.value = message
