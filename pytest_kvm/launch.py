"""One QEMU with its sockets served: started from a complete config, and ended with nothing left.

Console, monitor and command ports are socket pairs handed to QEMU as descriptors: no path to collide or to
clean up, nothing to race for, and an end of file the moment QEMU is gone.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_kvm.channels.console import Console
from pytest_kvm.channels.loop import LoopThread
from pytest_kvm.channels.shell import PORT_PREFIX, PORTS, PortShell
from pytest_kvm.errors import KvmError
from pytest_kvm.images.prepare import prepare
from pytest_kvm.qemu import argv, complaints, rundir
from pytest_kvm.qemu.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_kvm.channels.base import CommandChannel
    from pytest_kvm.channels.qmp import Qmp
    from pytest_kvm.channels.ssh import SshLogin
    from pytest_kvm.config import GuestConfig
    from pytest_kvm.images.image import Image
    from pytest_kvm.images.keys import Keys
    from pytest_kvm.qemu.binary import Qemu

_SHELL_PORTS = tuple(PORT_PREFIX + port for port in PORTS)
_AGENT_PORT = "org.qemu.guest_agent.0"
_QMP_PATIENCE = 30.0
_RUNG_PATIENCE = 2.0  # seconds for each rung of the teardown ladder; QEMU needs some 10 ms for the first


class Launch:
    """A started QEMU.

    :ivar directory: what exists on disk for it alone; gone after :meth:`close`.
    :ivar console: the first serial port; ``consoles`` holds the further ones by id.
    :ivar shell: the command ports, ``None`` where the image does not serve them.
    """

    def __init__(
        self, config: GuestConfig, image: Image, qemu: Qemu, accel: str, keys: Keys, cache: Path
    ) -> None:
        """Start QEMU; the guest is on its way when this returns.

        :param config: complete, as :func:`~pytest_kvm.images.prepare.with_image` makes it.
        :raise KvmError: when something is missing on the host; nothing is left then.
        """
        self._qemu, self._cache = qemu, cache
        self._qmp: Qmp | None = None
        pairs = {name: socket.socketpair() for name in _socket_names(config, image)}
        self._sockets = {name: ours for name, (ours, _) in pairs.items()}
        try:
            with rundir.created(cache / "run", config.name or "guest") as (self.directory, lock):
                prepared = prepare(config, image, keys, self.directory)
                fds = {name: theirs.fileno() for name, (_, theirs) in pairs.items()}
                wiring = argv.Wiring(
                    qmp=fds["qmp"],
                    console=fds["console"],
                    serials=fds,
                    ports={name: fd for name, fd in fds.items() if name.startswith("org.")},
                    disks=prepared.disks,
                    firmware=prepared.firmware,
                    fw_cfg=prepared.fw_cfg,
                )
                self.argv = argv.render(str(qemu.path), accel, config, wiring)
                self.process = Process(self.argv, self.directory, lock, fds.values())
        except BaseException:
            for ours in self._sockets.values():
                ours.close()
            raise
        finally:
            for _, theirs in pairs.values():
                theirs.close()
        try:
            self._serve(config)
        except BaseException:
            self.process.close()
            raise

    def _serve(self, config: GuestConfig) -> None:
        self.loop = LoopThread(f"pytest-kvm {config.name}")
        serials = [serial.id for serial in config.serials if serial.id in self._sockets]
        self.console, *others = (
            Console(self.loop, self._sockets[name], self.directory / f"{name}.log")
            for name in ("console", *serials)
            if name
        )
        self.consoles = {name: console for name, console in zip(serials, others, strict=True) if name}
        ports = [self._sockets[name] for name in _SHELL_PORTS if name in self._sockets]
        self.shell = PortShell(self.loop, *ports) if ports else None

    @property
    def agent_socket(self) -> socket.socket:
        """The guest agent's port, where the image serves it."""
        return self._sockets[_AGENT_PORT]

    def command_channel(
        self, channels: Sequence[str], login: Callable[[], SshLogin]
    ) -> CommandChannel | None:
        """Return the fastest way to run commands out of those that the image has.

        :param login: tells where SSH is to be had; only called when nothing else is.
        """
        if self.shell is not None:
            return self.shell
        if _AGENT_PORT in self._sockets:
            from pytest_kvm.channels.agent import GuestAgent

            return GuestAgent(self.loop, self.agent_socket)
        if "ssh" in channels:
            from pytest_kvm.channels.ssh import SshShell

            return SshShell(login())
        return None

    @property
    def qmp(self) -> Qmp:
        """The monitor, connected when it is first asked for.

        :raise KvmError: when QEMU ended instead of answering: what it said, and the command.
        """
        if self._qmp is None:
            # Imported while QEMU is starting: it takes longer than the rest of this process's work.
            from qemu.qmp import QMPError

            from pytest_kvm.channels.qmp import Qmp

            try:
                self._qmp = Qmp(self.loop, self._sockets["qmp"], timeout=_QMP_PATIENCE)
            except (QMPError, EOFError, OSError) as error:
                raise self._stillborn() from error
        return self._qmp

    def close(self) -> None:
        """End QEMU by the first rung of the ladder that works, and let go of everything."""
        if self._qmp is not None and self.process.poll() is None:
            with suppress(KvmError, TimeoutError):
                self._qmp.execute("quit")
        for next_rung in (self.process.terminate, self.process.kill, None):
            if self.process.wait(_RUNG_PATIENCE) is not None or next_rung is None:
                break
            next_rung()
        for console in (self.console, *self.consoles.values()):
            console.wait_ended(_RUNG_PATIENCE)
            console.close()
        if self.shell is not None:
            self.shell.close()
        if self._qmp is not None:
            self._qmp.close()
        self.loop.close()
        for sock in self._sockets.values():
            sock.close()
        self.process.close()

    def _stillborn(self) -> KvmError:
        code = self.process.wait(_RUNG_PATIENCE)
        return complaints.explain(self.argv, code, self.process.words, self._qemu, self._cache)


def _socket_names(config: GuestConfig, image: Image) -> list[str]:
    names = ["qmp", "console"]
    names += [serial.id for serial in config.serials if serial.backend == "socket" and serial.id]
    names += _SHELL_PORTS if "shell" in image.channels else ()
    names += [_AGENT_PORT] if "agent" in image.channels else []
    return names
