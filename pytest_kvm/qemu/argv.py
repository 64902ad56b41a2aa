"""Write QEMU's command line: pure functions, one for each group of options.

Disks, and what has a file name, go as JSON, where any name survives; the rest goes as option strings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm.config import options

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm.config import Drive, GuestConfig, NetDev, Numa, Serial

# What every guest gets besides what its config says; addresses are left to QEMU.
_COMMON_DEVICES = ("virtio-rng-pci,id=rng0", "virtio-balloon-pci,id=balloon0", "pvpanic-pci,id=pvpanic0")
_SCSI_DEVICES = ("scsi-hd", "scsi-cd")
_CACHE_MODES = {  # -drive cache=MODE in -blockdev's and -device's words; qemu-options.hx
    "writeback": {"write-cache": "on", "direct": False, "no-flush": False},
    "none": {"write-cache": "on", "direct": True, "no-flush": False},
    "unsafe": {"write-cache": "on", "direct": False, "no-flush": True},
    "writethrough": {"write-cache": "off", "direct": False, "no-flush": False},
    "directsync": {"write-cache": "off", "direct": True, "no-flush": False},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A drive as it stands on the host for one launch.

    :ivar file: the file that holds the content; for an empty disk its throwaway file.
    :ivar format: of ``file``.
    :ivar overlay: throwaway qcow2 over it that takes the writes, if any.
    """

    drive: Drive
    file: Path
    format: str
    overlay: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What one launch adds to the config: descriptors and files that exist for it alone.

    :ivar qmp: descriptor of the monitor's socket.
    :ivar console: descriptor of the first serial port's socket; likewise ``serials`` by id.
    :ivar ports: virtio-serial ports: name in the guest to descriptor.
    :ivar firmware: code and, for UEFI, this guest's own variables.
    :ivar fw_cfg: files that the guest reads through QEMU's firmware configuration device.
    """

    qmp: int
    console: int
    serials: dict[str, int]
    ports: dict[str, int]
    disks: tuple[Disk, ...] = ()
    firmware: tuple[Path, Path | None] | None = None
    fw_cfg: tuple[tuple[str, Path], ...] = ()


def render(program: str, accel: str, config: GuestConfig, wiring: Wiring) -> list[str]:
    """Write the whole command line.

    :param accel: the accelerator that was chosen: ``"kvm"`` or ``"tcg"``.
    """
    return [
        program,
        *base_args(config),
        *machine_args(config, accel),
        *cpu_args(config),
        *memory_args(config),
        *firmware_args(wiring),
        *kernel_args(config),
        *identity_args(config),
        *monitor_args(wiring),
        *serial_args(config, wiring),
        *port_args(wiring),
        *[word for disk in wiring.disks for word in disk_args(disk)],
        *[word for netdev in config.netdevs or () for word in netdev_args(netdev)],
        *device_args(config),
        *config.extra_args,
    ]


def base_args(config: GuestConfig) -> list[str]:
    """``-nodefaults``: nothing that was not asked for; name and display."""
    display = ["-display", config.display or "none"]
    return ["-name", options.join(config.name, {}), "-nodefaults", "-no-user-config", *display]


def machine_args(config: GuestConfig, accel: str) -> list[str]:
    """``-machine`` and ``-accel``."""
    machine = ["-machine", str(config.machine)] if config.machine else []
    return [*machine, "-accel", accel]


def cpu_args(config: GuestConfig) -> list[str]:
    """``-cpu`` and ``-smp``."""
    cpu = ["-cpu", str(config.cpu)] if config.cpu else []
    return [*cpu, *(["-smp", str(config.smp)] if config.smp and str(config.smp) else [])]


def memory_args(config: GuestConfig) -> list[str]:
    """``-m`` and ``-numa``."""
    memory = ["-m", config.memory] if config.memory else []
    for index, numa in enumerate(config.numa):
        memory += _numa_args(numa, index)
    return memory


def _numa_args(numa: Numa, index: int) -> list[str]:
    if numa.memory is None:
        return ["-numa", options.join(numa.kind, {"cpus": numa.cpus, **numa.options})]
    backend = options.join("memory-backend-ram", {"id": f"numa{index}", "size": numa.memory})
    node = {"cpus": numa.cpus, "memdev": f"numa{index}", **numa.options}
    return ["-object", backend, "-numa", options.join(numa.kind, node)]


def firmware_args(wiring: Wiring) -> list[str]:
    """``-bios``, or flash chips for UEFI code and variables; and files for the guest."""
    words = []
    if wiring.firmware is not None:
        code, variables = wiring.firmware
        words = ["-bios", str(code)] if variables is None else _flash_args(code, variables)
    for name, path in wiring.fw_cfg:
        words += ["-fw_cfg", options.join(None, {"name": name, "file": path})]
    return words


def _flash_args(code: Path, variables: Path) -> list[str]:
    words = []
    for number, path in enumerate((code, variables)):
        node = {"driver": "raw", "node-name": f"flash{number}", "read-only": path == code}
        file = {"driver": "file", "filename": str(path), "read-only": path == code}
        words += ["-blockdev", json.dumps({**node, "file": file})]
    return [*words, "-machine", "pflash0=flash0,pflash1=flash1"]


def kernel_args(config: GuestConfig) -> list[str]:
    """``-kernel``, ``-initrd``, ``-append``."""
    if config.kernel is None:
        return []
    words = ["-kernel", str(config.kernel)]
    if config.initrd is not None:
        words += ["-initrd", str(config.initrd)]
    return [*words, *(["-append", config.append] if config.append else [])]


def identity_args(config: GuestConfig) -> list[str]:
    """Write UUID, SMBIOS strings, clock and boot order."""
    words = ["-uuid", config.uuid] if config.uuid else []
    for smbios in config.smbios:
        words += ["-smbios", smbios]
    words += ["-rtc", config.rtc] if config.rtc else []
    return [*words, *(["-boot", config.boot] if config.boot else [])]


def monitor_args(wiring: Wiring) -> list[str]:
    """Write QMP on a passed descriptor: no path, no race, end of file when QEMU is gone."""
    return [*_socket_chardev("qmp", wiring.qmp), "-mon", "chardev=qmp,mode=control"]


def serial_args(config: GuestConfig, wiring: Wiring) -> list[str]:
    """Write the console and further serial ports."""
    words = [*_socket_chardev("console", wiring.console), "-serial", "chardev:console"]
    buses = {"virtconsole"} & {serial.device for serial in config.serials}
    words += ["-device", "virtio-serial-pci,id=consoles"] if buses else []
    for serial in config.serials:
        words += _serial_chardev(serial, wiring)
        bus = {"bus": "consoles.0"} if serial.device == "virtconsole" else {}
        words += ["-device", options.join(serial.device, {"chardev": serial.id, **bus})]
    return words


def _serial_chardev(serial: Serial, wiring: Wiring) -> list[str]:
    if serial.backend == "socket":
        return _socket_chardev(str(serial.id), wiring.serials[str(serial.id)])
    return ["-chardev", options.join(serial.backend, {"id": serial.id, "path": serial.path})]


def port_args(wiring: Wiring) -> list[str]:
    """Write the ports of the virtio serial bus: the command shell, the guest agent."""
    words = ["-device", "virtio-serial-pci,id=ports"] if wiring.ports else []
    for index, (name, descriptor) in enumerate(wiring.ports.items()):
        chardev = f"port{index}"
        port = {"bus": "ports.0", "chardev": chardev, "name": name}
        words += [*_socket_chardev(chardev, descriptor), "-device", options.join("virtserialport", port)]
    return words


def _socket_chardev(name: str, descriptor: int) -> list[str]:
    return ["-chardev", f"socket,id={name},fd={descriptor}"]


def disk_args(disk: Disk) -> list[str]:
    """``-blockdev`` for what holds the content, ``-device`` for what the guest sees."""
    drive = disk.drive
    throwaway = disk.overlay is not None or drive.file is None
    mode = _CACHE_MODES[drive.cache or ("unsafe" if throwaway else "writeback")]
    # No layer looks for a backing file by itself: a hostile image must not open files of the host.
    node = _node(disk.file, disk.format, mode, read_only=drive.readonly or disk.overlay is not None)
    if disk.overlay is not None:
        node = {**_node(disk.overlay, "qcow2", mode, read_only=False), "backing": node}
    node["node-name"] = drive.id
    device: dict[str, object] = {"driver": drive.device, "drive": drive.id, "id": f"{drive.id}-device"}
    if drive.device not in {"scsi-cd", "ide-cd"}:
        device["write-cache"] = mode["write-cache"]
    device |= {"serial": drive.serial} if drive.serial else {}
    device |= {"bootindex": drive.bootindex} if drive.bootindex is not None else {}
    words = ["-blockdev", json.dumps(node)]
    if drive.device in _SCSI_DEVICES:
        words += ["-device", f"virtio-scsi-pci,id={drive.id}-scsi"]
        device["bus"] = f"{drive.id}-scsi.0"
    return [*words, "-device", json.dumps(device)]


def _node(path: Path, driver: str, mode: dict[str, object], *, read_only: bool) -> dict[str, object]:
    cache = {"direct": mode["direct"], "no-flush": mode["no-flush"]}
    node: dict[str, object] = {
        "driver": driver,
        "read-only": read_only,
        "discard": "unmap",
        "cache": cache,
        "file": {
            "driver": "file",
            "filename": str(path),
            "read-only": read_only,
            "discard": "unmap",
            "cache": cache,
        },
    }
    return node if driver == "raw" else {**node, "backing": None}


def netdev_args(netdev: NetDev) -> list[str]:
    """``-netdev`` for the host's side, ``-device`` for the card."""
    backend = options.join(netdev.backend, {"id": netdev.id, **netdev.options})
    card = {"netdev": netdev.id, "id": f"{netdev.id}-device", "mac": netdev.mac}
    if netdev.device.startswith(("virtio-net-pci", "e1000", "rtl8139")):
        card["romfile"] = ""  # no network boot unless asked for: it costs seconds
    return ["-netdev", backend, "-device", options.join(netdev.device, card)]


def device_args(config: GuestConfig) -> list[str]:
    """``-device`` for what every guest has, and for what this one asks for."""
    words = []
    for device in (*_COMMON_DEVICES, *config.devices):
        words += ["-device", device]
    return words
