"""Which firmware a disk wants, and where the host keeps UEFI for guests."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from pytest_kvm.errors import HostError, ImageError

_SECTOR = 512
_HEAD_SECTORS = 34  # protective MBR, GPT header, and 128 entries of 128 bytes: UEFI specification, 5.3
_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")
# Distributions describe their firmware here: docs/interop/firmware.json of QEMU. The user's own goes first.
_DESCRIPTORS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
_UNWANTED = {"requires-smm", "secure-boot", "enrolled-keys"}


def wanted_by(disk: Path, image_format: str) -> str | None:
    """Tell by its partition table how a disk boots: ``"bios"``, ``"uefi"``, or ``None`` for not at all.

    A disk that can do both gets BIOS, which is quicker and needs no package.

    :raise ImageError: when the disk cannot be read.
    """
    head = _head(disk, image_format)
    boot_code, signature = head[:440], head[510:512]
    if signature != b"\x55\xaa":
        return None
    types = _partition_types(head)
    if any(boot_code) and (_BIOS_BOOT in types or not types):
        return "bios"
    return "uefi" if _ESP in types else "bios" if any(boot_code) else None


def uefi(arch: str, machine: str | None) -> tuple[Path, Path]:
    """Return UEFI's code, and the template of its variables.

    :raise HostError: when this host has none for that architecture.
    """
    for path in sorted(
        (path for directory in _DESCRIPTORS for path in directory.glob("*.json")), key=lambda path: path.name
    ):
        files = _matching_flash(path, arch, machine or "pc")
        if files is not None and all(file.is_file() for file in files):
            return files
    raise HostError(
        f"no UEFI firmware for {arch} guests; on Debian: apt-get install ovmf, on Fedora: edk2-ovmf"
    )


def _matching_flash(descriptor: Path, arch: str, machine: str) -> tuple[Path, Path] | None:
    try:
        said = json.loads(descriptor.read_text())
        kind = "q35" if "q35" in machine else "i440fx" if machine.startswith("pc") else machine
        targets = [
            target
            for target in said["targets"]
            if target["architecture"] == arch and any(kind in pattern for pattern in target["machines"])
        ]
        mapping = said["mapping"]
        if not targets or "uefi" not in said["interface-types"] or mapping["device"] != "flash":
            return None
        if _UNWANTED & set(said["features"]) or mapping["executable"]["format"] != "raw":
            return None
        return Path(mapping["executable"]["filename"]), Path(mapping["nvram-template"]["filename"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _head(disk: Path, image_format: str) -> bytes:
    if image_format == "raw":
        with disk.open("rb") as file:
            return file.read(_SECTOR * _HEAD_SECTORS)
    with TemporaryDirectory() as directory:
        head = Path(directory, "head")
        command = [
            "qemu-img",
            "dd",
            "-f",
            image_format,
            "-O",
            "raw",
            f"bs={_SECTOR}",
            f"count={_HEAD_SECTORS}",
        ]
        try:
            subprocess.run(
                [*command, f"if={disk}", f"of={head}"],
                check=True,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=60,
            )
        except FileNotFoundError:
            raise HostError("qemu-img is missing; on Debian: apt-get install qemu-utils") from None
        except subprocess.CalledProcessError as error:
            raise ImageError(f"image {disk}: cannot be read: {error.stderr.strip()}") from error
        return head.read_bytes()


def _partition_types(head: bytes) -> set[UUID]:
    """Return the type GUIDs of a GPT's partitions; empty when there is no GPT."""
    header = head[_SECTOR : 2 * _SECTOR]
    if header[:8] != b"EFI PART":
        return set()
    first_sector, count, size = struct.unpack_from("<QII", header, 72)
    start = first_sector * _SECTOR
    entries = (head[start + index * size :][:16] for index in range(min(count, 128)))
    return {UUID(bytes_le=entry) for entry in entries if len(entry) == 16 and any(entry)}
