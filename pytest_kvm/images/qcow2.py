"""Look at a disk file, and lay a throwaway layer over it."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm.errors import HostError, ImageError

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQ")  # magic, version, backing offset and size, cluster bits, size
_HEADER_LENGTH = 104  # of version 3; a file of version 2 is no shorter, as it has whole clusters
_EXTERNAL_DATA = 1 << 2  # incompatible feature bit; docs/interop/qcow2.txt of QEMU
_FOREIGN = {b"KDMV": "vmdk", b"vhdxfile": "vhdx", b"conectix": "vpc", b"<<< ": "vdi"}


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """A disk file as its header tells.

    :ivar format: ``"qcow2"`` or ``"raw"``.
    :ivar size: bytes that the guest sees.
    """

    format: str
    size: int


def inspect(path: Path, declared: str | None = None) -> DiskInfo:
    """Read a disk's format and size.

    :param declared: the format it is said to have; a raw disk may hold anything, so "raw" is believed.
    :raise ImageError: when it is missing, unreadable, another format than declared, one that is not
        supported, or leans on other files of the host (a backing file, an external data file).
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_LENGTH)
            size = file.seek(0, 2)
    except FileNotFoundError:
        raise ImageError(f"image {path}: no such file") from None
    except OSError as error:
        raise ImageError(f"image {path}: cannot be read: {error.strerror}") from error
    if declared == "raw":
        return DiskInfo("raw", size)
    if header[:4] == _MAGIC:
        return DiskInfo("qcow2", _qcow2_size(path, header))
    if declared == "qcow2":
        raise ImageError(f"image {path}: says qcow2, but is none; leave the format out or name the right one")
    for magic, name in _FOREIGN.items():
        if header.startswith(magic):
            raise ImageError(
                f"image {path}: is {name}; convert it: qemu-img convert -O qcow2 {path} IMAGE.qcow2"
            )
    if size == 0 or size % 512:
        raise ImageError(f"image {path}: {size} bytes are neither a qcow2 nor a raw disk (a multiple of 512)")
    return DiskInfo("raw", size)


def create_empty(path: Path, size: int) -> None:
    """Make an empty qcow2 of ``size`` bytes; what lies under it is said on QEMU's command line alone.

    :raise HostError: when there is no ``qemu-img``, or no room.
    """
    command = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size)]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
    except FileNotFoundError:
        raise HostError("qemu-img is missing; on Debian: apt-get install qemu-utils") from None
    except subprocess.CalledProcessError as error:
        raise HostError(f"qemu-img could not make {path}: {error.stderr.strip()}") from error


def _qcow2_size(path: Path, header: bytes) -> int:
    if len(header) < _HEADER_LENGTH:
        raise ImageError(f"image {path}: is cut off after {len(header)} bytes; fetch it again")
    _, version, backing_offset, _, _, size = _HEADER.unpack_from(header)
    if version not in {2, 3}:
        raise ImageError(f"image {path}: is qcow2 of version {version}; only 2 and 3 are known")
    if backing_offset:
        raise ImageError(
            f"image {path}: leans on another file (its backing file); "
            f"make it whole: qemu-img convert -O qcow2 {path} WHOLE.qcow2"
        )
    if version == 3 and struct.unpack_from(">Q", header, 72)[0] & _EXTERNAL_DATA:
        raise ImageError(f"image {path}: keeps its data in another file; make it whole with qemu-img convert")
    return int(size)
