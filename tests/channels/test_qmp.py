"""The monitor, with a fake QEMU that speaks QMP over a socket pair."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm.channels.loop import LoopThread
from pytest_kvm.channels.qmp import Qmp
from pytest_kvm.errors import KvmError, QmpError

if TYPE_CHECKING:
    from collections.abc import Iterator

GREETING = {
    "QMP": {"version": {"qemu": {"major": 9, "minor": 0, "micro": 0}, "package": ""}, "capabilities": []}
}


class FakeQemu:
    """Answers commands: ``echo`` returns its arguments, ``fail`` an error, ``silence`` nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def tell(self, message: dict[str, Any]) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, **data: Any) -> None:
        self.tell({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}})

    def hang_up(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self.hang_up()
        self._thread.join(5)
        self.sock.close()

    def _serve(self) -> None:
        decoder, text = json.JSONDecoder(), ""
        with suppress(OSError):
            self.tell(GREETING)
            while data := self.sock.recv(4096):
                text += data.decode()
                while text := text.lstrip():  # the client ends a message with nothing
                    try:
                        message, end = decoder.raw_decode(text)
                    except ValueError:
                        break
                    text = text[end:]
                    self._answer(message)

    def _answer(self, message: dict[str, Any]) -> None:
        self.asked.append({key: value for key, value in message.items() if key != "id"})
        command, given = message["execute"], message.get("arguments", {})
        if command == "silence":
            return
        if command == "die":
            self.hang_up()
            return
        reply: dict[str, Any] = {"return": {}}
        if command == "echo":
            reply = {"return": given}
        elif command == "human-monitor-command":
            reply = {"return": f"did {given['command-line']}\r\nwell\r\n"}
        elif command == "fail":
            reply = {"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}
        self.tell({**reply, "id": message.get("id")})


@pytest.fixture
def qemu() -> Iterator[tuple[Qmp, FakeQemu]]:
    """Join a monitor and a fake QEMU."""
    loop = LoopThread("test")
    ours, theirs = socket.socketpair()
    fake = FakeQemu(theirs)
    qmp = Qmp(loop, ours, timeout=5)
    yield qmp, fake
    qmp.close()
    qmp.close()
    loop.close()
    ours.close()
    fake.end()


def test_the_handshake(qemu: tuple[Qmp, FakeQemu]) -> None:
    """The greeting is awaited and capabilities are negotiated before anything else."""
    qmp, fake = qemu
    assert qmp.execute("query-status") == {}
    assert [message["execute"] for message in fake.asked] == ["qmp_capabilities", "query-status"]


def test_arguments(qemu: tuple[Qmp, FakeQemu]) -> None:
    """Underscores are QMP's dashes, and what is None is left out."""
    qmp, fake = qemu
    sent = {"command-line": "x", "nested": {"a_b": 1}, "off": False, "zero": 0}
    assert qmp.execute("echo", command_line="x", nested={"a_b": 1}, off=False, zero=0, absent=None) == sent
    assert qmp.execute_raw("echo", {"a_b": 1}) == {"a_b": 1}
    qmp.execute("echo")
    assert "arguments" not in fake.asked[-1]


def test_a_refusal(qemu: tuple[Qmp, FakeQemu]) -> None:
    """QEMU's words and the error's class are in the exception; the connection goes on."""
    qmp, _ = qemu
    with pytest.raises(QmpError) as caught:
        qmp.execute("fail")
    assert str(caught.value) == "fail: Device 'x' not found"
    assert caught.value.error_class == "DeviceNotFound"
    assert isinstance(caught.value, KvmError)
    assert qmp.execute("echo", a=1) == {"a": 1}


def test_the_human_monitor(qemu: tuple[Qmp, FakeQemu]) -> None:
    """Its output comes with plain line ends."""
    qmp, _ = qemu
    assert qmp.hmp("info status") == "did info status\nwell\n"


def test_qemu_dies_during_a_command(qemu: tuple[Qmp, FakeQemu]) -> None:
    """The waiting call ends at once, and later ones too."""
    qmp, _ = qemu
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(QmpError, match="QEMU is gone"):
            qmp.execute("die")
    assert time.monotonic() - start < 2


def test_a_command_without_an_answer(qemu: tuple[Qmp, FakeQemu]) -> None:
    """It ends with TimeoutError; an answer to the next command is not taken for its own."""
    qmp, _ = qemu
    qmp._timeout = 0.1
    with pytest.raises(TimeoutError):
        qmp.execute("silence")
    qmp._timeout = 5
    assert qmp.execute("echo", a=2) == {"a": 2}


def test_an_earlier_event_is_found(qemu: tuple[Qmp, FakeQemu]) -> None:
    """An event that came before anybody waited is returned, once."""
    qmp, fake = qemu
    fake.event("STOP")
    fake.event("RESUME")
    assert qmp.wait_event("RESUME", timeout=5)["event"] == "RESUME"
    assert qmp.wait_event("STOP", timeout=0)["event"] == "STOP"
    with pytest.raises(TimeoutError):
        qmp.wait_event("STOP", timeout=0)


def test_waiting_for_one_event_keeps_the_others(qemu: tuple[Qmp, FakeQemu]) -> None:
    """Every event is there afterwards, in order, and can still be waited for."""
    qmp, fake = qemu
    for number in range(5):
        fake.event("JOB", number=number)
    fake.event("DONE")
    qmp.wait_event("DONE", timeout=5)
    assert qmp.wait_event("JOB", timeout=1, match=lambda event: event["data"]["number"] == 3)["data"] == {
        "number": 3
    }
    assert [qmp.wait_event("JOB", timeout=0)["data"]["number"] for _ in range(4)] == [0, 1, 2, 4]
    assert [event["event"] for event in qmp.events()] == ["JOB"] * 5 + ["DONE"]


def test_a_later_event_wakes_the_waiter(qemu: tuple[Qmp, FakeQemu]) -> None:
    """It comes as soon as QEMU sends it, not at the next poll."""
    qmp, fake = qemu
    timer = threading.Timer(0.1, fake.event, ["SHUTDOWN"])
    timer.start()
    start = time.monotonic()
    assert qmp.wait_event("SHUTDOWN", timeout=5)["event"] == "SHUTDOWN"
    assert time.monotonic() - start < 2
    timer.join()


def test_an_event_that_does_not_come(qemu: tuple[Qmp, FakeQemu]) -> None:
    """The error lists what did."""
    qmp, fake = qemu
    with pytest.raises(TimeoutError, match=r"^event RESET: not within 0 s; events so far: none$"):
        qmp.wait_event("RESET", timeout=0)
    fake.event("STOP")
    fake.event("RESUME")
    qmp.wait_event("RESUME", timeout=5)
    with pytest.raises(TimeoutError, match=r"^event RESET: not within 0.05 s; events so far: STOP, RESUME$"):
        qmp.wait_event("RESET", timeout=0.05)


def test_qemu_gone_wakes_the_waiter(qemu: tuple[Qmp, FakeQemu]) -> None:
    """Nobody waits out a timeout for a QEMU that has ended; what it said before still counts."""
    qmp, fake = qemu
    fake.event("SHUTDOWN", guest=True)
    timer = threading.Timer(0.1, fake.hang_up)
    timer.start()
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="event RESET: QEMU is gone; events so far: SHUTDOWN"):
        qmp.wait_event("RESET", timeout=30)
    assert time.monotonic() - start < 5
    assert qmp.wait_event("SHUTDOWN", timeout=0)["data"] == {"guest": True}
    timer.join()


def test_closing_wakes_the_waiter(qemu: tuple[Qmp, FakeQemu]) -> None:
    """A thread that waits for an event does not outlive the connection."""
    qmp, _ = qemu
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            qmp.wait_event("NEVER", timeout=30)
        except TimeoutError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    qmp.close()
    thread.join(5)
    assert len(failures) == 1


def test_many_threads(qemu: tuple[Qmp, FakeQemu]) -> None:
    """Each gets the answer to its own command."""
    qmp, _ = qemu
    wrong: list[object] = []

    def ask(thread: int) -> None:
        for number in range(20):
            answer = qmp.execute("echo", thread=thread, number=number)
            if answer != {"thread": thread, "number": number}:
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_inside_a_running_event_loop(qemu: tuple[Qmp, FakeQemu]) -> None:
    """A test that is a coroutine itself may use the monitor."""
    qmp, fake = qemu

    async def body() -> Any:
        fake.event("STOP")
        qmp.wait_event("STOP", timeout=5)
        return qmp.execute("echo", a=1)

    assert asyncio.run(body()) == {"a": 1}


def test_a_qemu_that_never_greets() -> None:
    """Connecting ends with TimeoutError and leaves no task behind."""
    loop = LoopThread("test")
    ours, theirs = socket.socketpair()
    with pytest.raises(TimeoutError):
        Qmp(loop, ours, timeout=0.1)
    loop.close()
    ours.close()
    theirs.close()


def test_a_qemu_that_ends_instead_of_greeting() -> None:
    """Connecting ends at once with an error that the caller can translate."""
    from qemu.qmp import QMPError

    loop = LoopThread("test")
    ours, theirs = socket.socketpair()
    theirs.close()
    start = time.monotonic()
    with pytest.raises((QMPError, EOFError, OSError)):
        Qmp(loop, ours, timeout=10)
    assert time.monotonic() - start < 5
    loop.close()
    ours.close()


def test_a_connection_that_was_given_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the loop lets a cancelled connect finish its own clean-up: no transport is left open."""
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda seen: unraisable.append(seen.exc_value))
    for _ in range(5):
        loop = LoopThread("test")
        ours, theirs = socket.socketpair()
        with pytest.raises(TimeoutError):
            Qmp(loop, ours, timeout=0.02)
        loop.close()
        ours.close()
        theirs.close()
    gc.collect()
    assert unraisable == []
