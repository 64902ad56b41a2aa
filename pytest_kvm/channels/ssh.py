"""A shell through SSH: paramiko, a key of our own, a pinned host key; ready when the banner is there."""

from __future__ import annotations

import base64
import shlex
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm.channels.base import timed_out
from pytest_kvm.result import Result, make_result, readable, shell_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import paramiko

_BANNER = b"SSH-2.0"
_BANNER_PATIENCE = 5.0
_RETRY_PAUSE = 0.05
# The command's first line of output is its process group, for the case that it has to be killed.
_TELL_GROUP = "read -r _ _ _ _ group _ </proc/self/stat; echo $group; exec "


@dataclass(frozen=True, slots=True, kw_only=True)
class SshLogin:
    """Where and as whom to log in.

    :ivar key: path of the private key, in OpenSSH's form.
    :ivar host_key: the public host key that the guest must show: ``ssh-ed25519 AAAA...``; ``None`` takes any.
    """

    host: str
    port: int
    user: str
    key: Path
    host_key: str | None

    def config_text(self, name: str, known_hosts: Path) -> str:
        """Write it as OpenSSH's configuration, for ``ssh -F``, rsync, Ansible and testinfra."""
        strict = "no" if self.host_key is None else "yes"
        return (
            f"Host {name}\n"
            f"  HostName {self.host}\n  Port {self.port}\n  User {self.user}\n"
            f'  IdentityFile "{self.key}"\n  IdentitiesOnly yes\n  IdentityAgent none\n'
            f'  UserKnownHostsFile "{known_hosts}"\n  GlobalKnownHostsFile /dev/null\n'
            f"  StrictHostKeyChecking {strict}\n  LogLevel ERROR\n"
        )

    def known_hosts_text(self) -> str:
        """Write the pinned key as a line of ``known_hosts``."""
        return f"[{self.host}]:{self.port} {self.host_key}\n" if self.host_key else ""


def wait_for_banner(host: str, port: int, timeout: float) -> socket.socket:
    """Connect, and wait until an SSH server has said its banner, which is left to be read.

    QEMU's user network accepts a connection before the guest listens, so being connected means nothing.

    :return: the connected socket.
    :raise TimeoutError: when no banner came in time.
    """
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        try:
            sock = socket.create_connection((host, port), min(left, _BANNER_PATIENCE))
        except OSError:
            time.sleep(_RETRY_PAUSE)
            continue
        with suppress(OSError):  # silent, or refused by the guest: not yet
            sock.settimeout(min(left, _BANNER_PATIENCE))
            if sock.recv(len(_BANNER), socket.MSG_PEEK) == _BANNER:
                return sock
        sock.close()
        time.sleep(_RETRY_PAUSE)
    raise TimeoutError(f"no SSH server answered on {host}:{port} within {timeout:g} s")


def connect(login: SshLogin, timeout: float) -> paramiko.SSHClient:
    """Log in.

    :raise TimeoutError: when no SSH server answered in time.
    :raise paramiko.SSHException: when the guest shows another host key or refuses the login.
    """
    import paramiko

    client = paramiko.SSHClient()
    name = f"[{login.host}]:{login.port}"
    if login.host_key is None:
        client.set_missing_host_key_policy(paramiko.WarningPolicy())  # noqa: S507  # a key nobody told us
    else:
        kind, encoded = login.host_key.split()[:2]
        pinned = paramiko.PKey.from_type_string(kind, base64.b64decode(encoded))
        client.get_host_keys().add(name, kind, pinned)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
    sock = wait_for_banner(login.host, login.port, timeout)
    try:
        client.connect(
            login.host,
            port=login.port,
            username=login.user,
            pkey=paramiko.Ed25519Key.from_private_key_file(str(login.key)),
            sock=sock,
            allow_agent=False,
            look_for_keys=False,
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
        )
    except BaseException:
        client.close()
        sock.close()
        raise
    return client


class SshShell:
    """Runs commands through SSH; as root where the login is another user that may use ``sudo``."""

    def __init__(self, login: SshLogin) -> None:
        self._login = login
        self._client: paramiko.SSHClient | None = None

    def wait_ready(self, timeout: float) -> None:
        """Log in; see :class:`~pytest_kvm.channels.base.CommandChannel`."""
        if self._client is None:
            self._client = connect(self._login, timeout)

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
        self.wait_ready(timeout)
        channel = self._start(_TELL_GROUP + shlex.join(["sh", "-c", shell_text(command, env)]), timeout)
        try:
            out, err = _exchange(channel, input, deadline)
            group, _, printed = out.partition(b"\n")
            if not channel.exit_status_ready():
                self._start(f"kill -9 -- -{int(group or 0)}", timeout).recv_exit_status()
                shown, complained = readable(printed), readable(err)
                raise timed_out(command, timeout, "was killed", stdout=shown, stderr=complained)
            return make_result(command, channel.recv_exit_status(), printed, err)
        finally:
            channel.close()

    def _start(self, script: str, timeout: float) -> paramiko.Channel:
        transport = self._client.get_transport() if self._client else None
        if transport is None or not transport.is_active():
            raise ConnectionError("the SSH connection is gone")
        words = ["sh", "-c", script]
        channel = transport.open_session(timeout=timeout)
        channel.exec_command(shlex.join(words if self._login.user == "root" else ["sudo", "-n", *words]))
        return channel

    def restarted(self) -> None:
        """Log in anew; see :class:`~pytest_kvm.channels.base.CommandChannel`."""
        self.close()

    def close(self) -> None:
        """Log out; may be called twice."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _exchange(channel: paramiko.Channel, data: bytes, deadline: float) -> tuple[bytes, bytes]:
    """Feed standard input and collect both outputs until the command ends or the time is over."""
    out, err, left = bytearray(), bytearray(), memoryview(data)
    channel.settimeout(0.0)
    if not data:
        channel.shutdown_write()
    while time.monotonic() < deadline:
        ended = channel.exit_status_ready()
        while channel.recv_ready():
            out += channel.recv(1 << 16)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(1 << 16)
        if ended and channel.eof_received:
            break
        if left and channel.send_ready():
            left = left[channel.send(bytes(left[: 1 << 16])) :]
            if not left:
                channel.shutdown_write()
        else:
            channel.status_event.wait(0.005)
    return bytes(out), bytes(err)
