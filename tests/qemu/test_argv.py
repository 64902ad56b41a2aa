"""QEMU's command line, word for word: golden files, and what must hold for any of them.

``PYTEST_KVM_UPDATE_GOLDEN=1 pytest tests/qemu/test_argv.py`` writes the golden files anew; read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm.config import Drive, GuestConfig, NetDev, Numa, Serial, Smp
from pytest_kvm.qemu.argv import Disk, Wiring, render

GOLDEN = Path(__file__).with_name("golden")
RUN = Path("/run/guest")
NASTY = "a b,c:d\"e'f\\g=h\ni.img"


def disk(
    config_drive: Drive | str, *, file: Path | None = None, fmt: str = "qcow2", layer: bool = True
) -> Disk:
    drive = Drive.parse(config_drive) if isinstance(config_drive, str) else config_drive
    path = file or drive.file or RUN / f"{drive.id}.qcow2"
    return Disk(
        drive=drive,
        file=path,
        format=drive.format or fmt,
        overlay=RUN / f"{drive.id}.qcow2" if layer and drive.overlay and drive.file else None,
    )


def argv(accel: str = "tcg", disks: tuple[Disk, ...] = (), wired: Any = None, **fields: Any) -> list[str]:
    config = GuestConfig.of(**{"name": "guest", "netdevs": (), **fields})
    sockets = [str(serial.id) for serial in config.serials if serial.backend == "socket"]
    serials = {name: number for number, name in enumerate(sockets, start=20)}
    wiring = {"qmp": 10, "console": 11, "serials": serials, "ports": {}, "disks": disks, **(wired or {})}
    return render("qemu-system-x86_64", accel, config, Wiring(**wiring))


CASES: dict[str, dict[str, Any]] = {
    "minimal": {},
    "topology": {
        "accel": "kvm",
        "name": "big,wide",
        "machine": "q35,hpet=off",
        "cpu": "EPYC,+avx2,-svm,model-id=a,,b",
        "smp": "8,sockets=2,dies=1,cores=2,threads=2,maxcpus=8",
        "memory": "2G",
    },
    "cache-modes": {
        "disks": tuple(
            disk(f"/disks/{mode}.qcow2,cache={mode},overlay=off,id={mode}")
            for mode in ("writeback", "none", "unsafe", "writethrough", "directsync")
        )
    },
    "drives": {
        "disks": (
            disk("/disks/base.qcow2,id=disk0,bootindex=0"),
            disk("/disks/base.raw,format=raw,id=disk1,serial=S-1"),
            disk("/disks/ro.raw,format=raw,readonly=on,overlay=off,id=disk2"),
            disk("/disks/sys.qcow2,device=scsi-hd,id=disk3,bootindex=1,cache=none"),
            disk("/disks/cd.iso,format=raw,readonly=on,overlay=off,device=scsi-cd,id=cd0"),
            disk("/disks/cd.iso,format=raw,readonly=on,overlay=off,device=ide-cd,id=cd1"),
            disk("size=1G,id=empty"),
            disk(Drive(file=Path("/disks", NASTY), format="raw", id="nasty", serial='a,"b')),
        )
    },
    "netdevs": {
        "netdevs": (
            NetDev.parse(
                "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:0-:80,"
                "hostname=a,,b"
            ),
            NetDev.parse("tap,id=net1,ifname=tap0,script=no,downscript=no"),
            NetDev.parse("user,id=net2,model=e1000,mac=52:54:00:12:34:56"),
            NetDev.parse("socket,id=net3,mcast=230.0.0.1:1234,model=usb-net"),
            NetDev.parse("user,id=net4,device=virtio-net-device"),
        )
    },
    "serials": {
        "serials": (
            Serial(id="log"),
            Serial(id="hvc", device="virtconsole"),
            Serial(backend="pty", id="tty"),
            Serial(backend="file", path=Path("/tmp/a,b c.log"), id="file"),
            Serial(backend="null", id="void", device="pci-serial"),
        ),
        "wired": {"ports": {"org.pytest-kvm.control": 30, "org.qemu.guest_agent.0": 31}},
    },
    "numa": {
        "smp": Smp(cpus=4),
        "memory": "256M",
        "numa": (
            Numa(cpus="0-1", memory="128M"),
            Numa(memory="128M", options={"cpus": ["2", "3"], "nodeid": "1"}),
            Numa.parse("node,cpus=9,nodeid=2"),
            Numa.parse("dist,src=0,dst=1,val=20"),
        ),
    },
    "kernel": {
        "kernel": "/boot/vm linuz",
        "initrd": "/boot/initrd,img",
        "append": 'console=ttyS0 quiet opt="a,b"',
        "wired": {"fw_cfg": (("opt/org.pytest-kvm/authorized_key", Path("/cache/a,b/id.pub")),)},
    },
    "bios": {"wired": {"firmware": (Path("/fw/bios,256k.bin"), None)}},
    "uefi": {
        "machine": "q35",
        "wired": {"firmware": (Path("/fw/OVMF,CODE.fd"), Path("/run/guest/uefi-variables.fd"))},
    },
    "identity": {
        "uuid": "12345678-1234-5678-1234-567812345678",
        "smbios": ("type=1,manufacturer=OpenStack Foundation,product=Nova", "type=11,value=a"),
        "rtc": "base=2014-04-01T00:00:00,clock=vm",
        "boot": "menu=off,strict=on",
        "display": "vnc=127.0.0.1:12",
        "devices": ("VGA,id=video0", "usb-ehci,id=usb"),
        "extra_args": ("-overcommit", "mem-lock=off", "-msg", "timestamp=on"),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    """The command line of this config is exactly the one on file."""
    words = argv(**CASES[case])
    shown = "".join(json.dumps(word) + "\n" if "\n" in word else word + "\n" for word in words)
    golden = GOLDEN / f"{case}.txt"
    if os.environ.get("PYTEST_KVM_UPDATE_GOLDEN"):
        golden.write_text(shown)
    assert shown == golden.read_text()


def test_each_golden_file_has_a_case() -> None:
    """No golden file is left that nothing compares with."""
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


def blockdevs(words: list[str]) -> list[dict[str, Any]]:
    return [json.loads(words[at + 1]) for at, word in enumerate(words) if word == "-blockdev"]


def devices(words: list[str]) -> list[dict[str, Any]]:
    """Return the devices that were written as JSON."""
    given_words = [words[at + 1] for at, word in enumerate(words) if word == "-device"]
    return [json.loads(word) for word in given_words if word.startswith("{")]


def layers(node: dict[str, Any]) -> list[dict[str, Any]]:
    below = [child for child in (node.get("backing"), node.get("file")) if isinstance(child, dict)]
    return [node, *(layer for child in below for layer in layers(child))]


@pytest.mark.parametrize("case", ["cache-modes", "drives", "uefi"])
def test_no_image_chooses_its_own_backing_file(case: str) -> None:
    """Each qcow2 layer says what lies under it, or that nothing does; each layer names its format."""
    for node in blockdevs(argv(**CASES[case])):
        for layer in layers(node):
            assert layer["driver"] in {"qcow2", "raw", "file"}
            if layer["driver"] == "qcow2":
                assert "backing" in layer
                backing = layer["backing"]
                assert backing is None or backing["driver"] in {"qcow2", "raw"}


def test_under_an_overlay_nothing_is_written() -> None:
    """The layer with the user's file is read-only at every level; the throwaway one is not."""
    (node,) = blockdevs(argv(disks=(disk("/disks/base.qcow2,id=disk0"),)))
    assert node["read-only"] is node["file"]["read-only"] is False
    assert node["file"]["filename"] == "/run/guest/disk0.qcow2"
    assert node["backing"]["read-only"] is node["backing"]["file"]["read-only"] is True
    assert node["backing"]["file"]["filename"] == "/disks/base.qcow2"
    assert node["backing"]["backing"] is None


def test_each_device_finds_its_drive() -> None:
    """Every node that a device uses exists, and no two nodes share a name."""
    for case in CASES.values():
        words = argv(**case)
        names = [node["node-name"] for node in blockdevs(words)]
        assert len(names) == len(set(names))
        assert {device["drive"] for device in devices(words) if "drive" in device} <= set(names)
        ids = [device["id"] for device in devices(words)]
        assert len(ids) == len(set(ids))


def test_each_chardev_that_is_used_exists() -> None:
    """Serial ports, virtio ports and the monitor name character devices of the same command line."""
    words = argv(**CASES["serials"])
    known = {
        part.removeprefix("id=")
        for at, word in enumerate(words)
        if word == "-chardev"
        for part in words[at + 1].split(",")
        if part.startswith("id=")
    }
    used = {
        part.removeprefix("chardev=") for word in words for part in word.split(",") if "chardev=" in part[:8]
    }
    assert used <= known
    assert "chardev:console" in words


@pytest.mark.parametrize(
    ("cache", "layer", "direct", "no_flush", "write_cache"),
    [
        (None, True, False, True, "on"),
        (None, False, False, False, "on"),
        ("none", True, True, False, "on"),
        ("unsafe", False, False, True, "on"),
        ("writeback", True, False, False, "on"),
        ("writethrough", False, False, False, "off"),
        ("directsync", False, True, False, "off"),
    ],
)
def test_cache_modes_mean_what_qemu_documents(
    cache: str | None, layer: bool, direct: bool, no_flush: bool, write_cache: str
) -> None:
    """The five words of ``-drive cache=``; a throwaway layer is not worth a flush unless told so."""
    drive = Drive(file=Path("/a"), format="raw", cache=cache, overlay=layer, id="d")
    words = argv(disks=(disk(drive),))
    (node,) = blockdevs(words)
    for level in layers(node):
        assert level["cache"] == {"direct": direct, "no-flush": no_flush}
    assert devices(words)[0]["write-cache"] == write_cache


file_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@given(file_names, file_names)
@settings(max_examples=200, deadline=None)
def test_any_file_name_reaches_qemu(name: str, other: str) -> None:
    """Spaces, commas, colons, quotes, newlines, ``json:``: QEMU opens exactly the file that was named."""
    (raw, *_, layered) = blockdevs(
        argv(
            disks=(
                disk(Drive(file=Path(name), format="raw", overlay=False, id="a")),
                disk(Drive(file=Path(other), format="qcow2", id="b")),
            )
        )
    )
    assert raw["file"]["filename"] == str(Path(name))
    assert layered["backing"]["file"]["filename"] == str(Path(other))


def test_the_users_words_come_last_and_unchanged() -> None:
    """``extra_args`` are passed through: no splitting, no quoting."""
    words = argv(extra_args=["-device", "a b,,c", ""])
    assert words[-3:] == ["-device", "a b,,c", ""]


def test_what_is_not_said_is_left_to_qemu() -> None:
    """Machine, processor, memory, firmware and clock stay QEMU's when nothing is given."""
    words = argv()
    for option in ("-machine", "-cpu", "-smp", "-m", "-bios", "-rtc", "-boot", "-uuid", "-kernel"):
        assert option not in words


@pytest.mark.parametrize("device", ["virtio-net-device", "virtio-net-ccw", "usb-net"])
def test_only_pci_cards_get_a_rom_option(device: str) -> None:
    """Cards on other buses have no option ROM, and QEMU refuses the property."""
    words = argv(netdevs=[NetDev(id="n", device=device)])
    assert not any("romfile" in word for word in words)
