"""A distribution's disk image, named by its path: UEFI, GRUB, systemd and cloud-init, in one boot."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from pytest_kvm import CommandTimeout, Guest, GuestConfig, HostError, KvmError
from pytest_kvm.channels.agent import GuestAgent
from pytest_kvm.images import cache
from pytest_kvm.images.debian import DEBIAN_12

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm import Image


@pytest.fixture(scope="module")
def debian() -> Image:
    """Give the image, built if this host can; a build takes some minutes."""
    try:
        return DEBIAN_12.image(cache.directory(), print)
    except HostError as error:
        pytest.skip(str(error))


def test_a_cloud_image_by_its_path(debian: Image) -> None:
    """The file alone tells how it boots; every channel works; the file stays as it was."""
    assert debian.disk is not None
    before, changed = _sha256(debian.disk), debian.disk.stat().st_mtime_ns
    with Guest(GuestConfig(name="cloud", image=debian.disk, cpu="qemu64", smp="2")) as guest:
        assert guest.image.firmware == "uefi"
        assert guest.run("hostname").stdout == "cloud\n"
        assert guest.run("id -u").stdout == "0\n"
        assert guest.run("[ -d /sys/firmware/efi ] && echo UEFI").stdout == "UEFI\n"
        assert "done" in guest.run("cloud-init status --wait").stdout
        guest.wait_for_unit("ssh.service")
        with pytest.raises(KvmError, match=r"unit nosuch\.service active"):
            guest.wait_for_unit("nosuch.service", timeout=1)
        assert guest.run("systemctl is-system-running --wait", check=False).stdout == "running\n"
        _, stdout, _ = guest.ssh.exec_command("cat /etc/debian_version")
        assert stdout.read().startswith(b"12.")
        assert guest.console.expect("cloud login:") == 0
        guest.run("echo scribble >/root/scribble; sync")
        guest.shutdown()
    assert (_sha256(debian.disk), debian.disk.stat().st_mtime_ns) == (before, changed)


def test_the_guest_agent_runs_commands(debian: Image) -> None:
    """Where an image has the QEMU guest agent and nothing faster, ``run`` goes through it."""
    from dataclasses import replace

    agent_only = replace(debian, name="agent-only", channels=("agent",))
    with Guest(GuestConfig(image="agent-only", smp="2"), images={"agent-only": agent_only}) as guest:
        assert isinstance(guest._commands, GuestAgent)
        result = guest.run("cat; echo err >&2; exit 3", check=False, input=b"in\xff")
        assert (result.stdout_bytes, result.stderr, result.returncode) == (b"in\xff", "err\n", 3)
        assert guest.run("kill -9 $$", check=False).returncode == 128 + 9
        with pytest.raises(CommandTimeout, match="was killed"):
            guest.run("sleep 7654 & sleep 7654", timeout=1)
        guest.wait_until_succeeds("! pgrep -f 'sleep 765[4]'")
        with pytest.raises(KvmError, match="has no SSH server"):
            _ = guest.ssh


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
