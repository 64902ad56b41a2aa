"""Keys for throwaway guests: made once, private, and readable by those who need them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_kvm.images.keys import Keys, keys

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Make keys in a cache of the test's own."""
    return keys(tmp_path_factory.mktemp("cache"))


def test_they_are_made_once(tmp_path: Path) -> None:
    """The same cache gives the same keys, another cache others."""
    first, again, other = keys(tmp_path / "a"), keys(tmp_path / "a"), keys(tmp_path / "b")
    assert (first.user_public, first.host_public) == (again.user_public, again.host_public)
    assert len({first.user_public, first.host_public, other.user_public, other.host_public}) == 4


def test_private_means_private(made: Keys) -> None:
    """Nobody but the owner reads a private key, or lists the directory."""
    for path in (made.user_private, made.host_private, made.host_private_dropbear):
        assert path.stat().st_mode & 0o777 == 0o600
    assert made.directory.stat().st_mode & 0o077 == 0


def test_paramiko_reads_them(made: Keys) -> None:
    """The private halves are OpenSSH's form, and the public halves belong to them."""
    for path, public in ((made.user_private, made.user_public), (made.host_private, made.host_public)):
        key = paramiko.Ed25519Key.from_private_key_file(str(path))
        kind, encoded, comment = public.split()
        assert (kind, encoded, comment) == ("ssh-ed25519", key.get_base64(), "pytest-kvm")


def test_dropbear_reads_its_own_form(made: Keys) -> None:
    """Two strings with their lengths: the type, then the seed and the public half of the same host key."""
    data = made.host_private_dropbear.read_bytes()
    (length,) = struct.unpack_from(">I", data)
    assert data[4 : 4 + length] == b"ssh-ed25519"
    (pair,) = struct.unpack_from(">I", data, 4 + length)
    seed, public = data[8 + length : 40 + length], data[40 + length :]
    assert (pair, len(data)) == (64, 72 + length)
    assert Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() == public
    key = paramiko.Ed25519Key.from_private_key_file(str(made.host_private))
    assert key.asbytes().endswith(public)
