"""Write an initramfs: a cpio archive in the kernel's "newc" format, the same bytes for the same content.

No owner, time or inode number of the build host gets in: everything belongs to root and dates from 1970.
Format: ``Documentation/driver-api/early-userspace/buffer-format.rst`` of the Linux kernel.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: int
    data: bytes
    device: tuple[int, int] = (0, 0)


class Initramfs:
    """Collects files, then renders them in name order; parent directories appear by themselves."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and those above it."""
        name = path.strip("/")
        for parent in reversed(PurePosixPath(name).parents):
            if str(parent) != ".":
                self._entries.setdefault(str(parent), _Entry(stat.S_IFDIR | 0o755, b""))
        self._entries[name] = _Entry(stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Add a regular file."""
        content = data.encode() if isinstance(data, str) else data
        self._put(path, _Entry(stat.S_IFREG | mode, content))

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._put(path, _Entry(stat.S_IFLNK | 0o777, target.encode()))

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device, such as the console that init starts with."""
        self._put(path, _Entry(stat.S_IFCHR | mode, b"", (major, minor)))

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._entries

    def to_bytes(self) -> bytes:
        """Render the archive."""
        parts = [
            _record(number, name, entry)
            for number, (name, entry) in enumerate(sorted(self._entries.items()), start=1)
        ]
        parts.append(_record(0, "TRAILER!!!", _Entry(0, b"")))
        return _pad(b"".join(parts), 512)

    def _put(self, path: str, entry: _Entry) -> None:
        name = path.strip("/")
        parent = str(PurePosixPath(name).parent)
        if parent != "." and parent not in self._entries:
            self.directory(parent)
        self._entries[name] = entry


def _record(number: int, name: str, entry: _Entry) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + encoded) + _pad(entry.data)


def _pad(data: bytes, size: int = 4) -> bytes:
    return data + b"\0" * (-len(data) % size)
