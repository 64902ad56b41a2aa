"""Commands through the QEMU guest agent, for images that have it and nothing faster."""

from __future__ import annotations

import logging
import time
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_kvm.channels.base import timed_out
from pytest_kvm.errors import QmpError
from pytest_kvm.result import Result, make_result, shell_text

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pytest_kvm.channels.loop import LoopThread

PORT_NAME = "org.qemu.guest_agent.0"
_POLL_FIRST, _POLL_MOST = 0.005, 0.1


class GuestAgent:
    """The agent inside the guest, spoken to in QMP's syntax.

    Output of a command is held by the agent until the command ends, 16 MiB of each stream at most.
    """

    def __init__(self, loop: LoopThread, sock: socket.socket) -> None:
        from qemu.qmp import QMPClient

        self._loop = loop
        self._client = QMPClient("guest-agent")
        self._client.logger.setLevel(logging.CRITICAL)
        self._client.await_greeting = self._client.negotiate = False
        self._ready = self._closed = False
        loop.call(self._client.connect(sock), 10)

    def execute(self, command: str, /, *, timeout: float = 30, **arguments: Any) -> Any:
        """Execute one of the agent's own commands, such as ``guest-get-time``.

        :param arguments: its arguments; write ``_`` for the dashes in their names.
        :raise QmpError: when the agent refuses.
        :raise TimeoutError: when it does not answer.
        :raise ConnectionError: when the guest is gone.
        """
        from qemu.qmp import ExecuteError, QMPError

        given = {key.replace("_", "-"): value for key, value in arguments.items() if value is not None}
        try:
            return self._loop.call(self._client.execute(command, given or None), timeout)
        except ExecuteError as error:
            raise QmpError(f"guest agent: {command}: {error}", error_class=error.error_class) from error
        except QMPError as error:
            raise ConnectionError(f"guest agent: {command}: the guest is gone") from error

    def wait_ready(self, timeout: float) -> None:
        """Wait until the agent answers; see :class:`~pytest_kvm.channels.base.CommandChannel`."""
        if not self._ready:
            # The port keeps the message until the agent opens it, so one is enough.
            self.execute("guest-sync", timeout=timeout, id=time.monotonic_ns() & 0x7FFFFFFF)
            self._ready = True

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float,
        input: bytes = b"",
        env: dict[str, str] | None = None,
    ) -> Result:
        """Run one command; see :class:`~pytest_kvm.channels.base.CommandChannel`."""
        deadline = time.monotonic() + timeout
        pid = self.execute(
            "guest-exec",
            path="/bin/sh",
            arg=["-c", shell_text(command, env)],
            input_data=b64encode(input).decode() if input else None,
            capture_output=True,
        )["pid"]
        pause = _POLL_FIRST
        while not (status := self.execute("guest-exec-status", pid=pid))["exited"]:
            if time.monotonic() > deadline:
                self._kill(pid)
                raise timed_out(command, timeout, "was killed")
            time.sleep(pause)
            pause = min(_POLL_MOST, pause * 2)
        code = status["exitcode"] if "exitcode" in status else 128 + status.get("signal", 0)
        out, err = (b64decode(status.get(name, "")) for name in ("out-data", "err-data"))
        if status.get("out-truncated") or status.get("err-truncated"):
            err += b"\n[the guest agent cut the output at its limit]\n"
        return make_result(command, code, out, err)

    def restarted(self) -> None:
        """Greet the agent again; see :class:`~pytest_kvm.channels.base.CommandChannel`."""
        self._ready = False

    def close(self) -> None:
        """Drop the connection; may be called twice."""
        if not self._closed:
            self._closed = True
            self._loop.call(self._disconnect(), 10)

    def _kill(self, pid: int) -> None:
        """Kill the command's shell and what it started."""
        script = f"for p in $(pgrep -P {pid}); do kill -9 $p; done; kill -9 {pid}"
        self.execute("guest-exec", path="/bin/sh", arg=["-c", script])

    async def _disconnect(self) -> None:
        from qemu.qmp import QMPError

        with suppress(QMPError, EOFError, OSError):  # QEMU closed first, which is as good
            await self._client.disconnect()
