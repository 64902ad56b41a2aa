"""Keys for logging in to guests: made once per user, for throwaway guests on this host alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm.images.cache import build_once

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Keys:
    """A user key pair and a host key pair, Ed25519, as files of one private directory."""

    directory: Path

    @property
    def user_private(self) -> Path:
        """Path of the private key to log in with, in OpenSSH's form."""
        return self.directory / "id_ed25519"

    @property
    def user_public(self) -> str:
        """The public key that guests let in."""
        return (self.directory / "id_ed25519.pub").read_text().strip()

    @property
    def host_private(self) -> Path:
        """Path of the guests' private host key, in OpenSSH's form."""
        return self.directory / "host_ed25519"

    @property
    def host_private_dropbear(self) -> Path:
        """The same host key as dropbear keeps it."""
        return self.directory / "host_ed25519.dropbear"

    @property
    def host_public(self) -> str:
        """The host key that guests must show."""
        return (self.directory / "host_ed25519.pub").read_text().strip()


def keys(cache: Path) -> Keys:
    """Return the keys of this cache directory, making them the first time."""
    return Keys(build_once(cache / "keys", _make_keys, waiting=lambda: None))


def _make_keys(directory: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    for name in ("id_ed25519", "host_ed25519"):
        key = Ed25519PrivateKey.generate()
        _write_private(directory / name, _openssh(key))
        (directory / f"{name}.pub").write_text(_openssh_public(key) + " pytest-kvm\n")
        if name.startswith("host"):
            _write_private(directory / f"{name}.dropbear", _dropbear(key))


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _openssh(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _openssh_public(key: Ed25519PrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    public = key.public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _dropbear(key: Ed25519PrivateKey) -> bytes:
    """Write dropbear's own form: the key's type, then seed and public half (its ``ed25519.c``)."""
    pair = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    return b"".join(struct.pack(">I", len(part)) + part for part in (b"ssh-ed25519", pair))
