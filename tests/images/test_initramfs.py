"""The initramfs writer: the kernel's newc format, and the same bytes for the same content."""

from __future__ import annotations

import random
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_kvm.images.initramfs import Initramfs

if TYPE_CHECKING:
    from pathlib import Path


class Entry(NamedTuple):
    mode: int
    data: bytes
    device: tuple[int, int]
    owner: tuple[int, int]
    mtime: int
    inode: int


def read(archive: bytes) -> dict[str, Entry]:
    """Read an archive back, as ``init/initramfs.c`` of the kernel does."""
    entries: dict[str, Entry] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        numbers = [int(archive[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        inode, mode, uid, gid, _, mtime, size, _, _, major, minor, length, _ = numbers
        name = archive[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        start = (at + 110 + length + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            return entries
        path = name[:-1].decode()
        assert path not in entries
        entries[path] = Entry(mode, archive[start : start + size], (major, minor), (uid, gid), mtime, inode)
        at = (start + size + 3) // 4 * 4


def sample(order: list[int]) -> Initramfs:
    archive = Initramfs()
    steps = [
        lambda: archive.file("usr/bin/busybox", b"\x7fELF...", 0o755),
        lambda: archive.symlink("bin", "usr/bin"),
        lambda: archive.file("/etc/passwd", "root::0:0:größe\n"),
        lambda: archive.character_device("dev/console", 5, 1),
        lambda: archive.directory("tmp", 0o1777),
        lambda: archive.file("init", b"", 0o755),
    ]
    for index in order:
        steps[index]()
    return archive


def test_what_is_put_in_is_there() -> None:
    """Names, kinds, modes, contents and devices; parents appear by themselves."""
    entries = read(sample([0, 1, 2, 3, 4, 5]).to_bytes())
    assert set(entries) == {
        *(
            "usr",
            "usr/bin",
            "usr/bin/busybox",
            "bin",
            "etc",
            "etc/passwd",
            "dev",
            "dev/console",
            "tmp",
            "init",
        )
    }
    assert entries["usr/bin/busybox"][:2] == (stat.S_IFREG | 0o755, b"\x7fELF...")
    assert entries["bin"][:2] == (stat.S_IFLNK | 0o777, b"usr/bin")
    assert entries["etc/passwd"][:2] == (stat.S_IFREG | 0o644, "root::0:0:größe\n".encode())
    assert entries["dev/console"][:3] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert entries["tmp"].mode == stat.S_IFDIR | 0o1777
    assert entries["usr"].mode == stat.S_IFDIR | 0o755
    assert entries["init"].data == b""


def test_the_order_of_making_does_not_matter() -> None:
    """The same content gives the same bytes."""
    expected = sample([0, 1, 2, 3, 4, 5]).to_bytes()
    order = list(range(6))
    for _ in range(20):
        random.shuffle(order)
        assert sample(order).to_bytes() == expected


def test_a_directory_comes_before_what_is_in_it() -> None:
    """The kernel unpacks in order and makes no parents."""
    archive = Initramfs()
    archive.file("a/b/c", "x")
    archive.file("a-b", "x")
    names = list(read(archive.to_bytes()))
    assert names.index("a") < names.index("a/b") < names.index("a/b/c")


def test_nothing_of_the_build_host_gets_in() -> None:
    """Everything belongs to root and dates from 1970; inode numbers are just a count."""
    entries = list(read(sample([0, 1, 2, 3, 4, 5]).to_bytes()).values())
    assert {(entry.owner, entry.mtime) for entry in entries} == {((0, 0), 0)}
    assert [entry.inode for entry in entries] == list(range(1, len(entries) + 1))


def test_the_last_word_on_a_file_counts() -> None:
    """Putting a file twice keeps the second, once; a directory's mode is not reset by what it holds."""
    archive = Initramfs()
    archive.directory("secret", 0o700)
    archive.file("secret/x", "one")
    archive.file("secret/x", "two")
    archive.directory("secret/sub")
    entries = read(archive.to_bytes())
    assert entries["secret/x"].data == b"two"
    assert entries["secret"].mode == stat.S_IFDIR | 0o700
    assert "secret/x" in archive
    assert "/secret/sub/" in archive
    assert "nothing" not in archive


def test_it_is_padded_to_a_sector() -> None:
    """Another archive may follow it, as with microcode."""
    assert len(Initramfs().to_bytes()) == 512
    assert len(sample([0]).to_bytes()) % 512 == 0


@pytest.mark.parametrize("tool", [["cpio", "--quiet", "-t"], ["bsdtar", "-tf", "-"]])
def test_other_programs_read_it(tool: list[str], tmp_path: Path) -> None:
    """cpio and bsdtar list the same names."""
    if not shutil.which(tool[0]):
        pytest.skip(f"needs {tool[0]}")
    archive = sample([0, 1, 2, 3, 4, 5]).to_bytes()
    done = subprocess.run(tool, input=archive, capture_output=True, check=True)
    assert set(done.stdout.decode().split()) == set(read(archive))
