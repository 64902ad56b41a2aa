"""Commands through the shell's ports, with a fake guest that speaks the protocol of ``assets/shell``."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import pytest

from pytest_kvm.channels import shell
from pytest_kvm.channels.loop import LoopThread
from pytest_kvm.channels.shell import PortShell
from pytest_kvm.errors import CommandTimeout, KvmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Answer = Callable[["FakeGuest", str, bytes], int | None]


class FakeGuest:
    """The other end of the ports: reads commands, lets ``answer`` write, and sends the exit line."""

    def __init__(self, answer: Answer) -> None:
        pairs = [socket.socketpair() for _ in range(3)]
        self.host_ends = [ours for ours, _ in pairs]
        self.control, self.stdout, self.stderr = (theirs for _, theirs in pairs)
        self.answer = answer
        self.scripts: list[str] = []
        self.kills = 0
        self.mark = b""
        self.dies_on_kill = True
        self._killed = threading.Event()
        self._threads = [threading.Thread(target=self._serve), threading.Thread(target=self._listen_for_kill)]
        for thread in self._threads:
            thread.start()

    def say(self, line: str) -> None:
        self.control.sendall(line.encode() + b"\n")

    def wait_killed(self) -> int:
        """Be a command that runs until it is killed."""
        self._killed.wait(10)
        self._killed.clear()
        return 137

    def finish(self, status: int) -> None:
        """Say that the command has ended: on the control port first, which is the harder case."""
        self.say(f"exit {status}")
        self.stdout.sendall(self.mark + b"\n")
        self.stderr.sendall(self.mark + b"\n")

    def hang_up(self) -> None:
        for sock in (self.control, self.stdout, self.stderr):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self._killed.set()
        self.hang_up()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        for sock in (self.control, self.stdout, self.stderr):
            sock.close()

    def _serve(self) -> None:
        with self.control.makefile("rb") as control, self.stdout.makefile("rb") as stdin, suppress(OSError):
            self.say("ready")
            for header in control:
                *numbers, self.mark = header.split()
                lines, size = map(int, numbers)
                script = "".join(control.readline().decode() for _ in range(lines))
                self.scripts.append(script.removesuffix("\n"))
                status = self.answer(self, script.removesuffix("\n"), stdin.read(size) if size else b"")
                if status is not None:
                    self.finish(status)

    def _listen_for_kill(self) -> None:
        with self.stderr.makefile("rb") as stderr, suppress(OSError):
            for _ in stderr:
                self.kills += 1
                if self.dies_on_kill:
                    self._killed.set()
                    self.say("killed")


def run_really(guest: FakeGuest, script: str, data: bytes) -> int:
    """Answer as a guest does: with a shell."""
    done = subprocess.run(["/bin/sh", "-c", script], input=data, capture_output=True, check=False)
    guest.stdout.sendall(done.stdout)
    guest.stderr.sendall(done.stderr)
    return done.returncode


@pytest.fixture
def connect() -> Iterator[Callable[..., tuple[FakeGuest, PortShell]]]:
    """Make pairs of a fake guest and the channel to it."""
    made: list[tuple[FakeGuest, PortShell]] = []
    loop = LoopThread("test")

    def make(answer: Answer = run_really) -> tuple[FakeGuest, PortShell]:
        guest = FakeGuest(answer)
        made.append((guest, PortShell(loop, *guest.host_ends)))
        return made[-1]

    yield make
    for guest, channel in made:
        channel.close()
        channel.close()
        guest.end()
    loop.close()


Connect: TypeAlias = "Callable[..., tuple[FakeGuest, PortShell]]"


def test_a_command_runs(connect: Connect) -> None:
    """Status, standard output and standard error come back apart."""
    _, channel = connect()
    channel.wait_ready(5)
    result = channel.run("echo out; echo err >&2; exit 3", timeout=5)
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert result.args == "echo out; echo err >&2; exit 3"


def test_words_reach_the_program_as_they_are(connect: Connect) -> None:
    """A list is not read by a shell, whatever it holds."""
    _, channel = connect()
    words = ["printf", "%s|", "a b", "$HOME", "'", '"', "two\nlines", "*", ""]
    assert channel.run(words, timeout=5).stdout == "a b|$HOME|'|\"|two\nlines|*||"


def test_a_script_may_have_many_lines(connect: Connect) -> None:
    """Every line arrives, empty ones and the last one without an end too."""
    guest, channel = connect()
    script = "echo 1\n\necho 2\ncat <<X\nthree\nX\n"
    assert channel.run(script, timeout=5).stdout == "1\n2\nthree\n"
    assert guest.scripts == [script]


def test_bytes_that_are_no_text(connect: Connect) -> None:
    """They are readable in ``stdout``, and unchanged in ``stdout_bytes``."""
    _, channel = connect()
    result = channel.run(r"printf 'caf\303\251 \377\0\200'", timeout=5)
    assert result.stdout == "café \\xff\0\\x80"
    assert result.stdout_bytes == b"caf\xc3\xa9 \xff\0\x80"


def test_input_reaches_the_command(connect: Connect) -> None:
    """Any bytes, more of them than a socket holds."""
    _, channel = connect()
    data = bytes(range(256)) * 4096
    assert channel.run("cat", timeout=10, input=data).stdout_bytes == data


def test_the_environment_is_quoted(connect: Connect) -> None:
    """A value may hold anything: quotes, dollars, newlines."""
    _, channel = connect()
    env = {"ONE": "a 'b' $HOME `id`\n\"c\"\\", "TWO": ""}
    assert channel.run('printf "%s|%s" "$ONE" "$TWO"', timeout=5, env=env).stdout == env["ONE"] + "|"


def test_output_that_comes_with_the_exit_line_is_never_lost(connect: Connect) -> None:
    """Three sockets have no common order; what was written before the exit line still counts, every time."""

    def all_at_once(guest: FakeGuest, script: str, data: bytes) -> int:
        guest.stdout.sendall(script.encode() * 50)
        guest.stderr.sendall(b"e" * 3000)
        return 7

    _, channel = connect(all_at_once)
    for number in range(200):
        result = channel.run(f"{number};", timeout=5)
        assert result.stdout == f"{number};" * 50
        assert (result.returncode, result.stderr) == (7, "e" * 3000)


def test_output_may_come_after_the_exit_line(connect: Connect) -> None:
    """The result waits for the mark on both streams, however late that is."""

    def late(guest: FakeGuest, script: str, data: bytes) -> None:
        guest.say("exit 0")
        for sock, text in ((guest.stderr, b"err"), (guest.stdout, b"out")):
            time.sleep(0.05)
            sock.sendall(text)
            time.sleep(0.05)
            sock.sendall(guest.mark + b"\n")

    _, channel = connect(late)
    result = channel.run("true", timeout=5)
    assert (result.stdout, result.stderr) == ("out", "err")


def test_a_command_that_takes_too_long_is_killed(connect: Connect) -> None:
    """The error says so and carries what had been printed; the next command works."""

    def slow(guest: FakeGuest, script: str, data: bytes) -> int:
        if script != "sleep":
            return run_really(guest, script, data)
        guest.stdout.sendall(b"half\n")
        guest.stderr.sendall(b"way\x1b[31m\n")
        return guest.wait_killed()

    guest, channel = connect(slow)
    with pytest.raises(CommandTimeout) as caught:
        channel.run("sleep", timeout=0.1)
    assert str(caught.value) == "command did not end within 0.1 s and was killed: sleep"
    assert (caught.value.stdout, caught.value.stderr) == ("half\n", "way\x1b[31m\n")
    assert caught.value.__notes__ == ["It had printed:\nhalf\nway"]
    assert isinstance(caught.value, TimeoutError)
    assert guest.kills == 1
    assert channel.run("echo next", timeout=5).stdout == "next\n"


def test_a_kill_waits_for_the_killer_too(connect: Connect) -> None:
    """A kill that is still under way when the command ends could hit the next one."""
    times: dict[str, float] = {}

    def ends_by_itself(guest: FakeGuest, script: str, data: bytes) -> int:
        if script == "slow":
            guest.dies_on_kill = False
            while not guest.kills:
                time.sleep(0.001)
            return 0
        return run_really(guest, script, data)

    guest, channel = connect(ends_by_itself)

    def killer_answers_late() -> None:
        while not guest.kills:
            time.sleep(0.001)
        time.sleep(0.2)
        times["killed"] = time.monotonic()
        guest.say("killed")

    thread = threading.Thread(target=killer_answers_late)
    thread.start()
    with pytest.raises(CommandTimeout, match="was killed"):
        channel.run("slow", timeout=0.05)
    assert time.monotonic() >= times["killed"]
    thread.join()
    assert channel.run("echo ok", timeout=5).stdout == "ok\n"


def test_a_guest_that_hangs_is_said_to_hang(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """When even the killer does not answer, the next command is refused at once."""
    monkeypatch.setattr(shell, "_KILL_GRACE", 0.1)

    def hang(guest: FakeGuest, script: str, data: bytes) -> None:
        guest.dies_on_kill = False

    _, channel = connect(hang)
    with pytest.raises(CommandTimeout, match="could not be killed: the guest hangs: true"):
        channel.run("true", timeout=0.1)
    start = time.monotonic()
    with pytest.raises(CommandTimeout, match="an earlier command hangs in the guest"):
        channel.run("true", timeout=5)
    assert time.monotonic() - start < 1


def test_a_guest_that_does_not_read_hangs_too(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Input that nobody takes does not block for longer than the command's timeout."""
    monkeypatch.setattr(shell, "_KILL_GRACE", 0.1)
    read_nothing = threading.Event()

    def hang(guest: FakeGuest, script: str, data: bytes) -> None:
        read_nothing.wait(5)

    guest, channel = connect(hang)
    guest.dies_on_kill = False
    channel.wait_ready(5)
    with pytest.raises(CommandTimeout, match="hangs"):
        channel.run("one", timeout=0.1)
    channel.restarted()  # as after a reset, only that this guest still reads nothing
    with pytest.raises(CommandTimeout, match="hangs"):
        channel.run("x" * 4_000_000, timeout=0.2)
    read_nothing.set()


@pytest.mark.parametrize("says", ["", "exi"])
def test_a_guest_that_goes_away(connect: Connect, says: str) -> None:
    """The waiting call ends at once with ConnectionError, and so does every later one."""

    def die(guest: FakeGuest, script: str, data: bytes) -> None:
        guest.control.sendall(says.encode())
        guest.hang_up()

    _, channel = connect(die)
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(ConnectionError):
            channel.run("poweroff", timeout=30)
    assert time.monotonic() - start < 2


def test_an_answer_just_before_the_end_counts(connect: Connect) -> None:
    """A command that has ended has a result, even when the guest is gone a moment later."""

    def answer_and_die(guest: FakeGuest, script: str, data: bytes) -> None:
        guest.stdout.sendall(b"bye\n")
        guest.finish(0)
        guest.hang_up()

    for _ in range(50):
        _, channel = connect(answer_and_die)
        assert channel.run("poweroff", timeout=5).stdout == "bye\n"


def test_waiting_for_a_shell_that_does_not_come(connect: Connect) -> None:
    """It ends with TimeoutError while the guest lives, and with ConnectionError when it is gone."""
    loop = LoopThread("test")
    pairs = [socket.socketpair() for _ in range(3)]
    channel = PortShell(loop, *(ours for ours, _ in pairs))
    with pytest.raises(TimeoutError, match="command shell did not answer"):
        channel.wait_ready(0.05)
    for _, theirs in pairs:
        theirs.close()
    with pytest.raises(ConnectionError, match="the guest is gone"):
        channel.wait_ready(5)
    channel.close()
    loop.close()


def test_what_came_between_commands_is_nobodys(connect: Connect) -> None:
    """Output of a background process of an earlier command does not show up in the next result."""
    guest, channel = connect()
    channel.run("true", timeout=5)
    guest.stdout.sendall(b"late\n")
    guest.stderr.sendall(b"later\n")
    deadline = time.monotonic() + 5
    while not (channel._out and channel._err) and time.monotonic() < deadline:
        time.sleep(0.001)
    result = channel.run("echo mine", timeout=5)
    assert (result.stdout, result.stderr) == ("mine\n", "")


def test_commands_of_two_threads_take_turns(connect: Connect) -> None:
    """Each gets its own answer, however the threads mix."""
    busy = threading.Lock()

    def alone(guest: FakeGuest, script: str, data: bytes) -> int:
        assert busy.acquire(blocking=False), "two commands at once"
        guest.stdout.sendall(script.encode())
        busy.release()
        return len(script)

    _, channel = connect(alone)
    wrong: list[str] = []

    def ask(prefix: str) -> None:
        for number in range(100):
            script = f"{prefix}{number}"
            result = channel.run(script, timeout=5)
            if (result.stdout, result.returncode) != (script, len(script)):
                wrong.append(script)

    threads = [threading.Thread(target=ask, args=(prefix,)) for prefix in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_after_a_reset_the_shell_must_be_ready_again(connect: Connect) -> None:
    """An old "ready" does not count, and a command that was running is forgotten."""
    guest, channel = connect()
    channel.wait_ready(5)
    channel.restarted()
    with pytest.raises(TimeoutError):
        channel.wait_ready(0.05)
    guest.say("ready")
    channel.wait_ready(5)
    assert channel.run("echo again", timeout=5).stdout == "again\n"


def test_the_timeouts_belong_to_the_projects_tree() -> None:
    """What a user catches as KvmError includes a command that took too long."""
    assert issubclass(CommandTimeout, KvmError)
