"""The serial console over a socket pair: drained, logged, decoded, and a pexpect object."""

from __future__ import annotations

import io
import re
import socket
import threading
import time
from typing import TYPE_CHECKING

import pexpect
import pytest

from pytest_kvm.channels.console import Console
from pytest_kvm.channels.loop import LoopThread
from pytest_kvm.errors import ConsoleTimeout, KvmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    """Serve sockets for one test."""
    made = LoopThread("test")
    yield made
    made.close()
    made.close()


@pytest.fixture
def line(loop: LoopThread, tmp_path: Path) -> Iterator[tuple[Console, socket.socket]]:
    """Join a console and the guest's end of its line."""
    ours, theirs = socket.socketpair()
    console = Console(loop, ours, tmp_path / "console.log", timeout=5)
    yield console, theirs
    console.close()
    theirs.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "not so within 5 s"
        time.sleep(0.001)


def test_expect_finds_what_arrives(line: tuple[Console, socket.socket]) -> None:
    """``before``, ``match`` and ``after`` are pexpect's; what follows stays for the next call."""
    console, guest = line
    guest.sendall(b"boot ok\r\nhost-17 login: more")
    assert console.expect(r"host-(\d+) login: ") == 0
    assert console.before == "boot ok\r\n"
    assert console.after == "host-17 login: "
    assert isinstance(console.match, re.Match)
    assert console.match[1] == "17"
    assert console.expect(["absent", "mo.e"]) == 1


def test_expect_exact_and_expect_list(line: tuple[Console, socket.socket]) -> None:
    """Texts are taken literally, and compiled patterns work as well."""
    console, guest = line
    guest.sendall(b"[a-z]* then 42 end")
    assert console.expect_exact(["nothing", "[a-z]*"]) == 1
    assert console.expect_list([re.compile("[0-9]+")]) == 0
    assert console.after == "42"


def test_expect_waits_for_what_comes_later(line: tuple[Console, socket.socket]) -> None:
    """A pattern may arrive in pieces, long after the call."""
    console, guest = line

    def type_slowly() -> None:
        for piece in (b"log", b"in", b": "):
            time.sleep(0.02)
            guest.sendall(piece)

    thread = threading.Thread(target=type_slowly)
    thread.start()
    console.expect("login: ", timeout=5)
    thread.join()


def test_an_idle_console_is_drained(line: tuple[Console, socket.socket]) -> None:
    """A guest that prints a megabyte is never held up by a test that does not read."""
    console, guest = line
    guest.settimeout(5)
    data = b"".join(b"line %06d of what nobody reads\r\n" % number for number in range(32768))
    guest.sendall(data)
    guest.sendall(b"the end")
    wait_until(lambda: console.log.stat().st_size == len(data) + 7)
    assert console.log.read_bytes() == data + b"the end"
    assert console.text.endswith("reads\r\nthe end")
    console.expect_exact("the end")
    assert len(console.before or "") == len(data)


def test_a_silent_console_times_out(line: tuple[Console, socket.socket]) -> None:
    """The error is what a user of pexpect catches, and what a user of this project catches."""
    console, guest = line
    guest.sendall(b"one\r\n\r\n\x1b[1mtwo\x1b[0m\r\n")
    wait_until(lambda: console.text)
    for caught in (ConsoleTimeout, KvmError, TimeoutError, pexpect.TIMEOUT):
        with pytest.raises(caught):
            console.expect("never", timeout=0.01)
    with pytest.raises(ConsoleTimeout) as error:
        console.expect([r"ne\w+r", "nor this"], timeout=0.01)
    assert str(error.value) == r"the console did not say 'ne\\w+r' or 'nor this' within 0.01 s"
    assert error.value.__notes__ == ["Last lines of the console:\none\ntwo"]
    with pytest.raises(ConsoleTimeout, match=r"did not say 'literally' within 0\.01 s"):
        console.expect_exact("literally", timeout=0.01)


def test_a_console_that_printed_nothing_says_so(line: tuple[Console, socket.socket]) -> None:
    """An empty tail is not shown as if it were one."""
    console, _ = line
    with pytest.raises(ConsoleTimeout) as error:
        console.expect("x", timeout=0)
    assert error.value.__notes__ == ["The console printed nothing."]


def test_after_a_timeout_nothing_is_lost(line: tuple[Console, socket.socket]) -> None:
    """What was read in vain is still there for the next pattern."""
    console, guest = line
    guest.sendall(b"first ")
    with pytest.raises(ConsoleTimeout):
        console.expect("first second", timeout=0.05)
    guest.sendall(b"second")
    assert console.expect("first second") == 0


def test_timeout_and_eof_in_the_list_are_answers(line: tuple[Console, socket.socket]) -> None:
    """``pexpect.TIMEOUT`` and ``pexpect.EOF`` in the pattern list return their index."""
    console, guest = line
    assert console.expect(["x", pexpect.TIMEOUT, pexpect.EOF], timeout=0.01) == 1
    assert console.expect_exact(["x", pexpect.EOF, pexpect.TIMEOUT], timeout=0.01) == 2
    guest.sendall(b"last words")
    guest.close()
    assert console.expect(["x", pexpect.TIMEOUT, pexpect.EOF]) == 2
    assert console.before == "last words"


def test_a_guest_that_ends_is_an_end_of_file(line: tuple[Console, socket.socket]) -> None:
    """Everything before the end can still be read; then ``pexpect.EOF``, at once and again and again."""
    console, guest = line
    guest.sendall(b"Power down")
    guest.close()
    console.wait_ended(5)
    assert not console.isalive()
    assert console.expect("Power") == 0
    for _ in range(2):
        with pytest.raises(pexpect.EOF, match="the guest is gone"):
            console.expect("login")


def test_a_reset_line_is_an_end_as_well(line: tuple[Console, socket.socket]) -> None:
    """QEMU killed with unread input resets the connection; that is no other error."""
    console, guest = line
    console.send("unread")
    guest.close()
    with pytest.raises(pexpect.EOF):
        console.expect("x")


def test_bytes_that_are_no_text_stay_readable(line: tuple[Console, socket.socket]) -> None:
    """Line noise is shown as escapes, and patterns can match around it."""
    console, guest = line
    guest.sendall(b"a\xff\xfeb caf\xc3\xa9\n")
    assert console.expect("café") == 0
    assert console.before == "a\\xff\\xfeb "
    assert console.text == "a\\xff\\xfeb café\n"
    assert console.log.read_bytes() == b"a\xff\xfeb caf\xc3\xa9\n"


def test_a_character_may_be_cut_in_the_middle(line: tuple[Console, socket.socket]) -> None:
    """A character whose bytes arrive apart is one character."""
    console, guest = line
    for byte in "€ß".encode():
        guest.sendall(bytes([byte]))
        time.sleep(0.005)
    assert console.expect("€ß") == 0


def test_half_a_character_at_the_end_is_not_dropped(line: tuple[Console, socket.socket]) -> None:
    """A guest that dies in the middle of a character leaves its first bytes in sight."""
    console, guest = line
    guest.sendall(b"x\xe2\x82")
    guest.close()
    assert console.expect(pexpect.EOF) == 0
    assert console.before == "x\\xe2\\x82"


def test_the_tail_is_fit_for_a_report(line: tuple[Console, socket.socket]) -> None:
    """The last lines that are not empty, without escape sequences or control characters."""
    console, guest = line
    lines = b"".join(b"line %d\r\n\r\n" % number for number in range(50))
    guest.sendall(lines + b"\x1b]0;title\x07\x1b[2J\x1b[31mred\x07\x1b[0m\r\n")
    wait_until(lambda: "red" in console.text)
    assert console.tail(3) == "line 48\nline 49\nred\\x07"
    assert len(console.tail().split("\n")) == 20
    assert "\x1b" not in console.tail(100)
    assert b"\x1b[31m" in console.log.read_bytes()


def test_typing(line: tuple[Console, socket.socket]) -> None:
    """``send``, ``sendline``, ``write`` and ``sendcontrol`` put their bytes on the line and count them."""
    console, guest = line
    assert console.send("é") == 2
    assert console.send(b"\xff") == 1
    assert console.sendline("ls") == 3
    assert console.sendline() == 1
    assert console.sendcontrol("c") == console.sendcontrol("]") == 1
    console.write("w")
    assert guest.recv(100) == b"\xc3\xa9\xffls\n\n\x03\x1dw"


def test_a_long_paste_goes_in_pieces(
    line: tuple[Console, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow UART gets time between pieces of no more than 256 bytes."""
    console, guest = line
    pieces: list[int] = []
    send = console._loop.send

    def noted(sock: socket.socket, data: bytes, timeout: float | None = None) -> None:
        pieces.append(len(data))
        send(sock, data, timeout)

    monkeypatch.setattr(console._loop, "send", noted)
    assert console.send("x" * 1000) == 1000
    assert pieces == [256, 256, 256, 232]
    assert guest.recv(2000) == b"x" * 1000


def test_the_users_own_logfiles(line: tuple[Console, socket.socket]) -> None:
    """``logfile``, ``logfile_read`` and ``logfile_send`` get what pexpect would write to them."""
    console, guest = line
    console.logfile, console.logfile_read, console.logfile_send = io.StringIO(), io.StringIO(), io.StringIO()
    console.sendline("hi")
    guest.sendall(b"there")
    console.expect("there")
    assert console.logfile.getvalue() == "hi\nthere"
    assert console.logfile_read.getvalue() == "there"
    assert console.logfile_send.getvalue() == "hi\n"


def test_read_nonblocking(line: tuple[Console, socket.socket]) -> None:
    """It returns what is there, no more than was asked for, and does not wait when told not to."""
    console, guest = line
    with pytest.raises(pexpect.TIMEOUT):
        console.read_nonblocking(10, timeout=0)
    guest.sendall(b"abc")
    wait_until(lambda: console._pending)
    assert console.read_nonblocking(2, timeout=0) == "ab"
    assert console.read_nonblocking(2, timeout=0) == "c"


def test_closing(line: tuple[Console, socket.socket]) -> None:
    """It may be done twice; the log stays."""
    console, guest = line
    guest.sendall(b"kept")
    console.expect("kept")
    console.close()
    console.close()
    assert console.closed
    assert console.text == "kept"
    assert guest.recv(1) == b""


def test_no_thread_is_left(tmp_path: Path) -> None:
    """Closing the loop ends its thread, and closing it twice is no error."""
    before = threading.active_count()
    loop = LoopThread("short-lived")
    ours, theirs = socket.socketpair()
    console = Console(loop, ours, tmp_path / "log")
    theirs.sendall(b"x")
    console.expect("x")
    assert threading.active_count() == before + 1
    console.close()
    loop.close()
    loop.close()
    theirs.close()
    assert threading.active_count() == before
