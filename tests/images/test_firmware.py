"""Which firmware a disk wants, by partition tables made by hand; where the host keeps UEFI."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from pytest_kvm.errors import HostError, ImageError
from pytest_kvm.images import firmware

if TYPE_CHECKING:
    from pathlib import Path

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"


def mbr(*, code: bool, signature: bool = True) -> bytes:
    boot = (b"\xfa" if code else b"\0") * 440
    return boot.ljust(510, b"\0") + (b"\x55\xaa" if signature else b"\0\0")


def gpt(*types: str, code: bool, size: int = 128) -> bytes:
    """Write a protective MBR, a header and its entries."""
    head = b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, max(len(types), 4), size)
    entries = b"".join(UUID(kind).bytes_le.ljust(size, b"\1") for kind in types)
    return (mbr(code=code) + head.ljust(512, b"\0") + entries).ljust(34 * 512, b"\0")


DISKS: list[tuple[bytes, str | None]] = [
    (b"\0" * 34 * 512, None),
    (mbr(code=True, signature=False), None),
    (mbr(code=False), None),
    (mbr(code=True), "bios"),
    (gpt(ESP, LINUX, code=False), "uefi"),
    (gpt(LINUX, ESP, code=True), "uefi"),
    (gpt(BIOS_BOOT, LINUX, code=True), "bios"),
    (gpt(BIOS_BOOT, ESP, LINUX, code=True), "bios"),
    (gpt(BIOS_BOOT, ESP, code=False), "uefi"),
    (gpt(LINUX, ESP, code=False, size=256), "uefi"),
    (gpt(LINUX, code=False), None),
    (mbr(code=True)[:100], None),
    (b"", None),
]


@pytest.mark.parametrize(("data", "wanted"), DISKS, ids=lambda value: None if value is None else len(value))
def test_the_partition_table_tells(tmp_path: Path, data: bytes, wanted: str | None) -> None:
    """Boot code and a place for the boot loader mean BIOS, an EFI system partition UEFI, neither nothing."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(data)
    assert firmware.wanted_by(disk, "raw") == wanted


@pytest.mark.parametrize(
    ("start", "count", "size"), [(2**63, 128, 128), (2, 2**32 - 1, 128), (2, 128, 0), (2, 128, 2**32 - 1)]
)
def test_a_table_that_lies(tmp_path: Path, start: int, count: int, size: int) -> None:
    """Absurd numbers in a header neither raise nor take long."""
    head = b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", start, count, size)
    disk = tmp_path / "disk.raw"
    disk.write_bytes((mbr(code=True) + head).ljust(34 * 512, b"\0"))
    assert firmware.wanted_by(disk, "raw") in {"bios", "uefi", None}


needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img")


@needs_qemu_img
def test_the_table_inside_a_qcow2(tmp_path: Path) -> None:
    """A qcow2 is asked what its guest would see."""
    raw, disk = tmp_path / "a,b.raw", tmp_path / "a b.qcow2"
    raw.write_bytes(gpt(ESP, code=False))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk)],
        check=True,
    )
    assert firmware.wanted_by(disk, "qcow2") == "uefi"


@needs_qemu_img
def test_a_qcow2_that_is_broken(tmp_path: Path) -> None:
    """qemu-img's own words are in the error."""
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(b"QFI\xfb" + b"\xff" * 600)
    with pytest.raises(ImageError, match=r"disk\.qcow2: cannot be read: qemu-img: "):
        firmware.wanted_by(disk, "qcow2")


def descriptor(directory: Path, name: str, **changes: Any) -> tuple[Path, Path]:
    """Write firmware files and their description: docs/interop/firmware.json of QEMU."""
    directory.mkdir(exist_ok=True)
    code, variables = directory / f"{name}.code", directory / f"{name}.vars"
    code.write_text("code")
    variables.write_text("vars")
    mapping = {
        "device": "flash",
        "executable": {"filename": str(code), "format": "raw"},
        "nvram-template": {"filename": str(variables), "format": "raw"},
    }
    said = {
        "interface-types": ["uefi"],
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3", "verbose-dynamic"],
        "mapping": mapping,
        **changes,
    }
    (directory / f"{name}.json").write_text(json.dumps(said))
    return code, variables


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Have the host's descriptions lie in two directories of the test's own."""
    found = tmp_path / "etc", tmp_path / "usr"
    for place in found:
        place.mkdir()
    monkeypatch.setattr(firmware, "_DESCRIPTORS", found)
    return found


def test_the_first_that_fits(places: tuple[Path, Path]) -> None:
    """Descriptions count in the order of their names, wherever they lie."""
    etc, usr = places
    later = descriptor(etc, "60-other")
    first = descriptor(usr, "40-ovmf")
    assert firmware.uefi("x86_64", "q35") == first
    (usr / "40-ovmf.json").unlink()
    assert firmware.uefi("x86_64", None) == later


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ["requires-smm", "secure-boot"]},
        {"features": ["enrolled-keys"]},
        {"interface-types": ["bios"]},
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"targets": [{"architecture": "x86_64", "machines": ["microvm"]}]},
        {"targets": []},
        {"mapping": {"device": "memory", "filename": "/x"}},
        {"mapping": {"device": "flash"}},
    ],
)
def test_what_does_not_fit_is_passed_over(places: tuple[Path, Path], changes: dict[str, Any]) -> None:
    """Firmware for secure boot, another computer, or another way of loading is not taken."""
    descriptor(places[1], "10-unfit", **changes)
    fits = descriptor(places[1], "20-fit")
    assert firmware.uefi("x86_64", "pc-q35-7.2") == fits


def test_broken_descriptions_are_passed_over(places: tuple[Path, Path]) -> None:
    """So are those whose files are not installed."""
    (places[0] / "00-broken.json").write_text("{")
    (places[0] / "01-list.json").write_text("[]")
    (places[0] / "02-directory.json").mkdir()
    code, _ = descriptor(places[0], "03-uninstalled")
    code.unlink()
    fits = descriptor(places[1], "20-fit")
    assert firmware.uefi("x86_64", "q35") == fits


@pytest.mark.parametrize(
    ("machine", "found"), [("q35", True), ("pc-q35-9.0", True), ("pc", False), (None, False)]
)
def test_the_machine_must_match(places: tuple[Path, Path], machine: str | None, found: bool) -> None:
    """QEMU's default machine is ``pc``, which is another than ``q35``."""
    fits = descriptor(places[1], "q35", targets=[{"architecture": "x86_64", "machines": ["pc-q35-*"]}])
    if found:
        assert firmware.uefi("x86_64", machine) == fits
    else:
        with pytest.raises(HostError):
            firmware.uefi("x86_64", machine)


def test_a_host_without_uefi(places: tuple[Path, Path]) -> None:
    """The packages that have it are named."""
    with pytest.raises(
        HostError, match=r"^no UEFI firmware for x86_64 guests; on Debian: apt-get install ovmf"
    ):
        firmware.uefi("x86_64", "q35")
