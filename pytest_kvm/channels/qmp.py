"""QEMU's machine protocol with a synchronous face; ``qemu.qmp`` does the work on the guest's loop thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_kvm.errors import QmpError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pytest_kvm.channels.loop import LoopThread

Event = dict[str, Any]


class Qmp:
    """A monitor connection. Commands and events may be used from any thread."""

    def __init__(self, loop: LoopThread, sock: socket.socket, *, timeout: float = 30) -> None:
        from qemu.qmp import EventListener, QMPClient

        self._loop, self._timeout = loop, timeout
        self._client = QMPClient("pytest-kvm")
        # What goes wrong is raised here as an error of ours; the client's own log would repeat it.
        self._client.logger.setLevel(logging.CRITICAL)
        self._listener = EventListener()
        self._history: list[Event] = []
        self._pending: list[Event] = []
        self._arrived = threading.Condition()
        self._closed = self._gone = False
        loop.call(self._connect(sock), timeout)

    def execute(self, command: str, /, **arguments: Any) -> Any:
        """Execute a command and return its result.

        :param command: QMP's name of it: ``"query-status"``.
        :param arguments: its arguments; write ``_`` for the dashes in their names, ``None`` to leave one out.
        :raise QmpError: when QEMU refuses, or is gone.
        :raise TimeoutError: when QEMU does not answer.
        """
        given = {key.replace("_", "-"): value for key, value in arguments.items() if value is not None}
        return self.execute_raw(command, given)

    def execute_raw(self, command: str, arguments: dict[str, Any]) -> Any:
        """Execute a command whose argument names are taken as they are."""
        from qemu.qmp import ExecuteError, QMPError

        try:
            return self._loop.call(self._client.execute(command, arguments or None), self._timeout)
        except ExecuteError as error:
            raise QmpError(f"{command}: {error}", error_class=error.error_class) from error
        except QMPError as error:
            raise QmpError(f"{command}: QEMU is gone ({error})") from error

    def hmp(self, line: str) -> str:
        """Execute a line of the human monitor and return what it prints."""
        return str(self.execute("human-monitor-command", command_line=line)).replace("\r\n", "\n")

    def events(self) -> list[Event]:
        """Return all events since the guest was started, oldest first."""
        with self._arrived:
            return list(self._history)

    def wait_event(
        self, name: str, *, timeout: float = 30, match: Callable[[Event], bool] | None = None
    ) -> Event:
        """Return the first event of that name that no earlier call has returned; others stay for later.

        :param match: a further condition on the event.
        :param timeout: seconds.
        :raise TimeoutError: when it does not come.
        """
        deadline = time.monotonic() + timeout
        with self._arrived:
            while True:
                for event in self._pending:
                    if event["event"] == name and (match is None or match(event)):
                        self._pending.remove(event)
                        return event
                if self._gone or not self._arrived.wait(deadline - time.monotonic()):
                    seen = ", ".join(event["event"] for event in self._history[-10:]) or "none"
                    why = "QEMU is gone" if self._gone else f"not within {timeout:g} s"
                    raise TimeoutError(f"event {name}: {why}; events so far: {seen}")

    def close(self) -> None:
        """Drop the connection; QEMU goes on. May be called twice."""
        with self._arrived:
            if self._closed:
                return
            self._closed = self._gone = True
            self._arrived.notify_all()
        self._loop.call(self._disconnect(), self._timeout)

    async def _connect(self, sock: socket.socket) -> None:
        self._client.register_listener(self._listener)
        await self._client.connect(sock)
        self._tasks = [asyncio.create_task(self._collect()), asyncio.create_task(self._watch())]

    async def _collect(self) -> None:
        async for message in self._listener:
            event = dict(message)
            with self._arrived:
                self._history.append(event)
                self._pending.append(event)
                self._arrived.notify_all()

    async def _watch(self) -> None:
        from qemu.qmp import Runstate

        while self._client.runstate == Runstate.RUNNING:
            await self._client.runstate_changed()
        with self._arrived:
            self._gone = True
            self._arrived.notify_all()

    async def _disconnect(self) -> None:
        from qemu.qmp import QMPError

        for task in self._tasks:
            task.cancel()
        with suppress(QMPError, EOFError, OSError):  # QEMU closed first, which is as good
            await self._client.disconnect()
