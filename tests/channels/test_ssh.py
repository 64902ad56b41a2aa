"""SSH, as far as it goes without a server: the banner, and what is written for OpenSSH."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_kvm.channels import ssh
from pytest_kvm.channels.ssh import SshLogin, wait_for_banner

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN = SshLogin(
    host="127.0.0.1", port=2222, user="root", key=Path("/keys/a b/id"), host_key="ssh-ed25519 AAAA x"
)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Listen as QEMU's user network does: connections are accepted by the kernel before anyone answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


def test_being_connected_is_not_being_ready(server: socket.socket) -> None:
    """A listener that accepts and stays silent is no SSH server."""
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no SSH server answered on 127\.0\.0\.1:\d+ within 0\.2 s"):
        wait_for_banner("127.0.0.1", server.getsockname()[1], timeout=0.2)
    assert time.monotonic() - start < 2


def test_a_port_that_nobody_listens_on() -> None:
    """A refused connection is tried again until the time is over."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host, port = closed.getsockname()
    with pytest.raises(TimeoutError):
        wait_for_banner(host, port, timeout=0.2)


def test_the_banner_ends_the_wait_and_can_still_be_read(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent connection is given up, a reset one too; the first that greets is returned untouched."""
    monkeypatch.setattr(ssh, "_BANNER_PATIENCE", 0.1)
    accepted: list[socket.socket] = []

    def serve() -> None:
        silent, _ = server.accept()
        rude, _ = server.accept()
        rude.close()
        other, _ = server.accept()
        other.sendall(b"220 smtp ready\r\n")
        polite, _ = server.accept()
        polite.sendall(b"SSH-2.0-dropbear\r\n")
        accepted.extend([silent, other, polite])

    thread = threading.Thread(target=serve)
    thread.start()
    sock = wait_for_banner("127.0.0.1", server.getsockname()[1], timeout=5)
    thread.join()
    assert sock.recv(100) == b"SSH-2.0-dropbear\r\n"
    for each in (sock, *accepted):
        each.close()


def test_the_configuration_for_openssh() -> None:
    """It names one host, one key, one known_hosts, and takes nothing from the user's own set-up."""
    assert LOGIN.config_text("web", Path("/run/known hosts")) == (
        "Host web\n"
        "  HostName 127.0.0.1\n"
        "  Port 2222\n"
        "  User root\n"
        '  IdentityFile "/keys/a b/id"\n'
        "  IdentitiesOnly yes\n"
        "  IdentityAgent none\n"
        '  UserKnownHostsFile "/run/known hosts"\n'
        "  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
        "  LogLevel ERROR\n"
    )
    assert LOGIN.known_hosts_text() == "[127.0.0.1]:2222 ssh-ed25519 AAAA x\n"


def test_a_host_key_that_nobody_told() -> None:
    """Then any is taken, and none is pinned."""
    login = SshLogin(host="127.0.0.1", port=22, user="me", key=Path("/k"), host_key=None)
    assert "StrictHostKeyChecking no\n" in login.config_text("web", Path("/kh"))
    assert login.known_hosts_text() == ""


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")
def test_openssh_reads_it(tmp_path: Path) -> None:
    """``ssh -F FILE -G NAME`` finds every value."""
    path = tmp_path / "ssh config"
    path.write_text(LOGIN.config_text("web", tmp_path / "known hosts"))
    done = subprocess.run(
        ["ssh", "-F", str(path), "-G", "web"],  # the user's own ssh
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert {"hostname 127.0.0.1", "port 2222", "user root", "identitiesonly yes"} <= set(lines)
    assert any(line.startswith("userknownhostsfile") and "known hosts" in line for line in lines)
