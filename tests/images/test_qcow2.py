"""Looking at disks, with headers made by hand."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pytest_kvm.errors import HostError, ImageError
from pytest_kvm.images import qcow2
from pytest_kvm.images.qcow2 import DiskInfo, inspect


def header(version: int = 3, *, backing: int = 0, size: int = 1 << 30, features: int = 0) -> bytes:
    """Write a qcow2 header: docs/interop/qcow2.txt of QEMU."""
    first = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 10 if backing else 0, 16, size)
    return (first + bytes(40) + struct.pack(">QQQII", features, 0, 0, 4, 104)).ljust(512, b"\0")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Name a disk that is not there yet."""
    return tmp_path / "disk.img"


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("declared", [None, "qcow2"])
def test_a_qcow2(disk: Path, version: int, declared: str | None) -> None:
    """Its header tells format and size, in both versions."""
    assert inspect(write(disk, header(version)), declared) == DiskInfo("qcow2", 1 << 30)


@pytest.mark.parametrize("data", [b"\0" * 512, b"\xeb\x3c\x90".ljust(1024, b"x")], ids=len)
def test_a_raw_disk(disk: Path, data: bytes) -> None:
    """Whole sectors of anything else are a raw disk."""
    assert inspect(write(disk, data)) == DiskInfo("raw", len(data))


def test_raw_is_believed(disk: Path) -> None:
    """A disk that is said to be raw may hold anything, even the picture of a qcow2 with a backing file."""
    assert inspect(write(disk, header(backing=512)), "raw") == DiskInfo("raw", 512)


@pytest.mark.parametrize(
    ("data", "declared", "complaint"),
    [
        (
            header(backing=512),
            None,
            "leans on another file (its backing file); make it whole: qemu-img convert",
        ),
        (header(features=4), None, "keeps its data in another file; make it whole"),
        (header(features=5), None, "keeps its data in another file; make it whole"),
        (header()[:20], None, "is cut off after 20 bytes; fetch it again"),
        (header()[:60], None, "is cut off after 60 bytes; fetch it again"),
        (header(4), None, "is qcow2 of version 4; only 2 and 3 are known"),
        (b"KDMV".ljust(1024, b"\0"), None, "is vmdk; convert it: qemu-img convert -O qcow2"),
        (b"vhdxfile".ljust(1024, b"\0"), None, "is vhdx; convert it"),
        (b"conectix".ljust(1024, b"\0"), None, "is vpc; convert it"),
        (b"<<< Oracle VM".ljust(1024, b"\0"), None, "is vdi; convert it"),
        (b"x" * 513, None, "513 bytes are neither a qcow2 nor a raw disk (a multiple of 512)"),
        (b"", None, "0 bytes are neither"),
        (b"\0" * 512, "qcow2", "says qcow2, but is none; leave the format out or name the right one"),
        (b"KDMV".ljust(1024, b"\0"), "qcow2", "says qcow2, but is none"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_refused(disk: Path, data: bytes, declared: str | None, complaint: str) -> None:
    """The message names the file, what is wrong with it, and what to do."""
    with pytest.raises(ImageError) as caught:
        inspect(write(disk, data), declared)
    assert str(caught.value).startswith(f"image {disk}: {complaint}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(disk: Path) -> None:
    """It is named."""
    with pytest.raises(ImageError, match=r"disk\.img: no such file$"):
        inspect(disk)


def test_a_file_that_cannot_be_read(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own reason is given: a directory, or no permission."""
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        inspect(disk.parent)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(ImageError, match="cannot be read: Permission denied"):
            inspect(disk)


needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img")


@needs_qemu_img
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_what_qemu_img_makes_is_understood(disk: Path, compat: str) -> None:
    """Real headers of both versions read as the handmade ones do."""
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={compat}", str(disk), "3M"],
        check=True,
    )
    assert inspect(disk) == DiskInfo("qcow2", 3 << 20)


@needs_qemu_img
def test_an_empty_layer(disk: Path) -> None:
    """It has the size that was asked for and names no file under it."""
    qcow2.create_empty(disk, 5 << 20)
    assert inspect(disk) == DiskInfo("qcow2", 5 << 20)
    told = subprocess.run(
        ["qemu-img", "info", "--output=json", str(disk)],
        check=True,
        capture_output=True,
    )
    assert "backing-filename" not in json.loads(told.stdout)


@needs_qemu_img
def test_a_layer_that_cannot_be_made(tmp_path: Path) -> None:
    """qemu-img's own words are in the error."""
    with pytest.raises(HostError, match=r"^qemu-img could not make .*No such file or directory"):
        qcow2.create_empty(tmp_path / "absent" / "x.qcow2", 1 << 20)


def test_without_qemu_img(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that has it is named."""
    monkeypatch.setenv("PATH", str(disk.parent))
    with pytest.raises(HostError, match=r"^qemu-img is missing; on Debian: apt-get install qemu-utils$"):
        qcow2.create_empty(disk, 1 << 20)
