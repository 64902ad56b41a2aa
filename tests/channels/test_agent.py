"""The guest agent, with a fake one that speaks its protocol over a socket pair."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm.channels.agent import GuestAgent
from pytest_kvm.channels.loop import LoopThread
from pytest_kvm.errors import CommandTimeout, QmpError

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeAgent:
    """Runs commands with the host's shell; ``polls`` is how often a command counts as still running."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked: list[dict[str, Any]] = []
        self.polls = 2
        self.status: dict[str, Any] = {}
        self._left: dict[int, int] = {}
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def end(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self.sock.close()

    def _serve(self) -> None:
        decoder, text = json.JSONDecoder(), ""
        with suppress(OSError):
            while data := self.sock.recv(65536):
                text += data.decode()
                while text := text.lstrip():
                    try:
                        message, end = decoder.raw_decode(text)
                    except ValueError:
                        break
                    text = text[end:]
                    self.asked.append(message)
                    reply = self._answer(message["execute"], message.get("arguments", {}))
                    self.sock.sendall(json.dumps({**reply, "id": message.get("id")}).encode() + b"\n")

    def _answer(self, command: str, given: dict[str, Any]) -> dict[str, Any]:
        if command == "guest-sync":
            return {"return": given["id"]}
        if command == "guest-exec":
            pid = len(self._left) + 100
            self._left[pid] = self.polls
            if not self.status:
                self._run(given)
            return {"return": {"pid": pid}}
        if command == "guest-exec-status":
            self._left[given["pid"]] -= 1
            running = self._left[given["pid"]] > 0
            return {"return": {"exited": False} if running else {"exited": True, **self.status}}
        return {"error": {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}}

    def _run(self, given: dict[str, Any]) -> None:
        done = subprocess.run(
            [given["path"], *given["arg"]],
            input=b64decode(given.get("input-data", "")),
            capture_output=True,
            check=False,
        )
        end = {"signal": -done.returncode} if done.returncode < 0 else {"exitcode": done.returncode}
        texts = {"out-data": done.stdout, "err-data": done.stderr}
        self.status = {**end, **{key: b64encode(data).decode() for key, data in texts.items() if data}}


@pytest.fixture
def agent() -> Iterator[tuple[GuestAgent, FakeAgent]]:
    """Join the channel and a fake agent."""
    loop = LoopThread("test")
    ours, theirs = socket.socketpair()
    fake = FakeAgent(theirs)
    channel = GuestAgent(loop, ours)
    yield channel, fake
    channel.close()
    channel.close()
    loop.close()
    ours.close()
    fake.end()


def test_a_command_runs(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """It is started, asked for until it has ended, and its streams come back apart."""
    channel, fake = agent
    result = channel.run("echo out; echo err >&2; exit 3", timeout=5)
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")
    asked = [message["execute"] for message in fake.asked]
    assert asked == ["guest-exec", "guest-exec-status", "guest-exec-status"]


def test_input_environment_and_bytes(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """Nothing is lost in the protocol's base64."""
    channel, _ = agent
    result = channel.run('cat; printf "%s" "$X"', timeout=5, input=b"\xff\0in ", env={"X": "a 'b'"})
    assert result.stdout_bytes == b"\xff\0in a 'b'"
    assert result.stdout == "\\xff\0in a 'b'"


def test_a_command_without_input_gets_none(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """The argument is left out rather than sent empty."""
    channel, fake = agent
    channel.run("true", timeout=5)
    assert "input-data" not in fake.asked[0]["arguments"]
    assert fake.asked[0]["arguments"]["capture-output"] is True


def test_a_signal_is_told_as_a_shell_tells_it(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """128 + n, as on every other channel."""
    channel, _ = agent
    assert channel.run("kill -9 $$", timeout=5).returncode == 137


def test_cut_output_is_said_to_be_cut(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """The agent keeps 16 MiB; that there was more is not hidden."""
    channel, fake = agent
    fake.status = {"exitcode": 0, "out-data": b64encode(b"much").decode(), "out-truncated": True}
    result = channel.run("yes", timeout=5)
    assert result.stdout == "much"
    assert "cut the output" in result.stderr


def test_a_command_that_takes_too_long_is_killed(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """The error says so, and the agent was told to kill the command's process."""
    channel, fake = agent
    fake.polls, fake.status = 10**6, {"exitcode": 0}
    with pytest.raises(CommandTimeout, match=r"did not end within 0\.1 s and was killed: sleep 60"):
        channel.run("sleep 60", timeout=0.1)
    assert fake.asked[-1]["execute"] == "guest-exec"
    assert "kill -9 100" in fake.asked[-1]["arguments"]["arg"][1]


def test_the_agents_own_commands(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """Underscores are dashes, and a refusal carries the agent's words and class."""
    channel, _ = agent
    assert channel.execute("guest-sync", id=5) == 5
    with pytest.raises(QmpError, match=r"guest-reboot-now has not been found") as caught:
        channel.execute("guest-reboot-now")
    assert caught.value.error_class == "CommandNotFound"


def test_ready_when_it_answers(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """It is greeted once, and again after a reset."""
    channel, fake = agent
    for _ in range(3):
        channel.wait_ready(5)
    assert len(fake.asked) == 1
    channel.restarted()
    channel.wait_ready(5)
    assert len(fake.asked) == 2


def test_an_agent_that_does_not_answer() -> None:
    """Waiting ends with TimeoutError."""
    loop = LoopThread("test")
    ours, theirs = socket.socketpair()
    channel = GuestAgent(loop, ours)
    with pytest.raises(TimeoutError):
        channel.wait_ready(0.05)
    channel.close()
    loop.close()
    for sock in (ours, theirs):
        sock.close()


def test_a_guest_that_goes_away(agent: tuple[GuestAgent, FakeAgent]) -> None:
    """Every call ends at once with ConnectionError."""
    channel, fake = agent
    fake.end()
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(ConnectionError):
            channel.run("true", timeout=30)
    assert time.monotonic() - start < 5
