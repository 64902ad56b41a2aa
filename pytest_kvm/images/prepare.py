"""Everything that must exist on the host before QEMU starts: layers over disks, seed, firmware, keys."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_kvm.config import Cpu, Drive, Machine, NetDev, Serial
from pytest_kvm.config.options import size_in_bytes
from pytest_kvm.errors import ConfigError, ImageError
from pytest_kvm.images import firmware, qcow2, seed
from pytest_kvm.qemu.argv import Disk

if TYPE_CHECKING:
    from pytest_kvm.config import GuestConfig
    from pytest_kvm.images.image import Image
    from pytest_kvm.images.keys import Keys

# Closed by default: a test that reaches the network depends on it. "user" alone opens it.
_CLOSED_NETWORK = NetDev(backend="user", options={"restrict": "on"})
_FW_CFG = "opt/org.pytest-kvm"
_OWN_IDS = {
    "qmp",
    "console",
    "seed",
    "ports",
    "port0",
    "port1",
    "port2",
    "port3",
    "rng0",
    "balloon0",
    "pvpanic0",
}
_Device = TypeVar("_Device", Drive, NetDev, Serial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What :func:`prepare` made, in the words of :class:`~pytest_kvm.qemu.argv.Wiring`."""

    disks: tuple[Disk, ...]
    firmware: tuple[Path, Path | None] | None
    fw_cfg: tuple[tuple[str, Path], ...]


def with_image(config: GuestConfig, image: Image) -> GuestConfig:
    """Fill in what the config leaves open from what the image says; number the devices.

    :raise ConfigError: when both together make no guest.
    """
    if config.arch not in {None, image.arch}:
        raise ConfigError(f'arch "{config.arch}": image "{image.name}" is for {image.arch}')
    name = config.name or "guest"
    kernel = config.kernel or image.kernel
    drives = _image_drive(image, config) + config.drives
    netdevs = (_CLOSED_NETWORK,) if config.netdevs is None else config.netdevs
    taken = {*_OWN_IDS, *_given_ids(replace(config, drives=drives, netdevs=netdevs))}
    if config.append and kernel is None:
        raise ConfigError(
            f'append "{config.append}": only a kernel that is booted directly takes it; give a kernel'
        )
    return replace(
        config,
        name=name,
        arch=image.arch,
        machine=config.machine or (Machine.parse(image.machine) if image.machine else None),
        cpu=config.cpu or (Cpu.parse(image.cpu) if image.cpu else None),
        memory=config.memory or image.memory,
        kernel=kernel,
        initrd=config.initrd or (image.initrd if kernel else None),
        append=_kernel_line(config, image, name) if kernel else None,
        firmware=config.firmware or image.firmware,
        devices=image.devices + config.devices,
        drives=_numbered(drives, "drive", taken),
        netdevs=_numbered(netdevs, "net", taken),
        serials=_numbered(config.serials, "serial", taken),
    )


def prepare(config: GuestConfig, image: Image, keys: Keys, directory: Path) -> Prepared:
    """Make the files that one launch of a complete config needs.

    :param directory: the guest's run directory.
    :raise ImageError: when a disk is missing or not what it says.
    :raise HostError: when this host lacks a tool, firmware or room.
    """
    disks = [_lay_out(drive, directory) for drive in config.drives]
    fw_cfg: tuple[tuple[str, Path], ...] = ()
    if image.provision == "cloud-init":
        path = directory / "seed.iso"
        seed.write_seed(path, name=config.name or "guest", user=image.user, keys=keys)
        drive = Drive(file=path, format="raw", readonly=True, overlay=False, id="seed")
        disks.append(Disk(drive=drive, file=path, format="raw", overlay=None))
    elif image.provision == "fw_cfg":
        public = keys.directory / "id_ed25519.pub"
        fw_cfg = ((f"{_FW_CFG}/authorized_key", public), (f"{_FW_CFG}/host_key", keys.host_private_dropbear))
    return Prepared(disks=tuple(disks), firmware=_firmware(config, directory), fw_cfg=fw_cfg)


def _given_ids(config: GuestConfig) -> set[str]:
    """Return the ids that the config itself gives.

    :raise ConfigError: when one is an id that every guest has already.
    """
    ids = {drive.id for drive in config.drives} | {netdev.id for netdev in config.netdevs or ()}
    given = {id_ for id_ in ids | {serial.id for serial in config.serials} if id_}
    if clash := sorted(given & _OWN_IDS):
        raise ConfigError(f'id "{clash[0]}" is one that every guest has already; choose another')
    return given


def _image_drive(image: Image, config: GuestConfig) -> tuple[Drive, ...]:
    if image.disk is None:
        return ()
    first = None if any(drive.bootindex is not None for drive in config.drives) else 0
    return (Drive(file=image.disk, format=image.format, bootindex=first, id="disk0"),)


def _kernel_line(config: GuestConfig, image: Image, name: str) -> str:
    # The kernel itself sets the host name (since 5.19): no process in the guest has to.
    hostname = f"hostname={name}" if image.provision == "fw_cfg" else None
    return " ".join(word for word in (image.append or "console=ttyS0", hostname, config.append) if word)


def _numbered(devices: tuple[_Device, ...], prefix: str, taken: set[str]) -> tuple[_Device, ...]:
    """Give an id to each device that has none, by its place or, where that is taken, the next free one."""
    numbered = []
    for index, device in enumerate(devices):
        identifier = device.id or next(
            name for number in count(index) if (name := f"{prefix}{number}") not in taken
        )
        taken.add(identifier)
        numbered.append(replace(device, id=identifier))
    return tuple(numbered)


def _lay_out(drive: Drive, directory: Path) -> Disk:
    throwaway = directory / f"{drive.id}.qcow2"
    if drive.file is None:
        qcow2.create_empty(throwaway, size_in_bytes(drive.size, "drive: size", default_unit="b"))
        return Disk(drive=drive, file=throwaway, format="qcow2", overlay=None)
    info = qcow2.inspect(drive.file, drive.format)
    overlay = None
    if drive.overlay and not drive.readonly:
        overlay = throwaway
        qcow2.create_empty(overlay, info.size)
    return Disk(drive=drive, file=drive.file.absolute(), format=info.format, overlay=overlay)


def _firmware(config: GuestConfig, directory: Path) -> tuple[Path, Path | None] | None:
    if config.firmware is None or (config.firmware == "bios"):
        return None
    if config.firmware != "uefi":
        path = Path(config.firmware)
        if not path.is_file():
            raise ImageError(f'firmware "{path}": no such file; say "bios", "uefi", or a path')
        return path, None
    machine = config.machine.type if config.machine else None
    code, template = firmware.uefi(config.arch or "x86_64", machine)
    variables = directory / "uefi-variables.fd"
    shutil.copyfile(template, variables)
    return code, variables
