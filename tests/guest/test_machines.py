"""What the config says is what the guest sees: disks, serial ports, NUMA, firmware, kernels."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_kvm import Drive, Guest, GuestConfig, KvmError
from pytest_kvm.images import cache
from pytest_kvm.images.tiny import TINY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_disks_of_every_kind(guest_factory: Callable[..., Guest], tmp_path: Path) -> None:
    """Raw and qcow2, odd names, every cache mode, read-only, SCSI: the guest reads each, no file changes."""
    raw = tmp_path / 'a,b c:d"e\nf.img'
    raw.write_bytes(b"raw!" * 1024)
    qcow2 = tmp_path / "json:{x}.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "plain.qcow2"), "1M"]
    subprocess.run(make, check=True)
    (tmp_path / "plain.qcow2").rename(qcow2)
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (raw, qcow2)]
    times = [path.stat().st_mtime_ns for path in (raw, qcow2)]
    guest = guest_factory(
        drives=[
            Drive(file=raw, format="raw", serial="raw", cache="unsafe"),
            Drive(file=qcow2, serial="qcow2", cache="none"),
            Drive(file=raw, format="raw", serial="fixed", readonly=True, cache="writethrough"),
            Drive(size="2M", serial="empty", cache="directsync"),
            Drive(size="1M", serial="scsi", device="scsi-hd", cache="writeback"),
        ]
    )
    serials = guest.run("grep -H . /sys/block/vd*/serial").stdout.split()
    names = {line.split(":")[1]: line.split("/")[3] for line in serials}
    assert guest.run(f"head -c 8 /dev/{names['raw']}").stdout == "raw!raw!"
    assert guest.run(f"cat /sys/block/{names['empty']}/size").stdout == f"{(2 << 20) // 512}\n"
    guest.wait_for_file("/sys/block/sda")
    assert guest.run("cat /sys/block/sda/size").stdout == f"{(1 << 20) // 512}\n"
    for name in ("raw", "qcow2", "empty"):
        guest.run(f"echo written >/dev/{names[name]}; sync")
        assert guest.run(f"head -c 8 /dev/{names[name]}").stdout == "written\n"
    assert guest.run(f"echo x >/dev/{names['fixed']}", check=False).returncode != 0
    guest.kill()
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in (raw, qcow2)] == before
    assert [path.stat().st_mtime_ns for path in (raw, qcow2)] == times


def test_a_drive_without_overlay_is_written(guest_factory: Callable[..., Guest], tmp_path: Path) -> None:
    """Overlay=False hands the file itself to the guest."""
    path = tmp_path / "own.img"
    path.write_bytes(bytes(1 << 20))
    guest = guest_factory(drives=[Drive(file=path, format="raw", overlay=False)])
    guest.run("echo kept >/dev/vda; sync")
    guest.kill()
    assert path.read_bytes().startswith(b"kept\n")


@pytest.mark.kvm(
    smp="2,sockets=2",
    memory="384M",
    numa=["node,cpus=0,mem=128M", "node,cpus=1,mem=256M", "dist,src=0,dst=1,val=33"],
)
def test_numa_nodes_have_their_memory_and_distance(guest: Guest) -> None:
    """Two nodes of different size, with the distance that was asked for."""
    nodes = "/sys/devices/system/node"
    assert guest.run(f"cat {nodes}/node0/distance").stdout.split() == ["10", "33"]
    sizes = [
        int(line.split()[3])
        for line in guest.run(f"grep -h MemTotal {nodes}/node*/meminfo").stdout.splitlines()
    ]
    assert sizes[0] < 128 << 10 < sizes[1] <= 256 << 10
    assert guest.run(f"cat {nodes}/node1/cpulist").stdout == "1\n"


def test_serial_ports_of_two_kinds(guest_factory: Callable[..., Guest], tmp_path: Path) -> None:
    """A further console is a pexpect object; a file has what the guest wrote."""
    guest = guest_factory(serials=["socket,id=second", f"file:{tmp_path}/third.log,id=third"])
    guest.run("echo to the second >/dev/ttyS1; echo to the third >/dev/ttyS2")
    guest.consoles["second"].expect("to the second")
    guest.run("exec 3</dev/ttyS1; (head -n 1 <&3 >/tmp/typed) >/dev/null 2>&1 &")
    guest.consoles["second"].sendline("typed")
    guest.wait_until_succeeds("grep -qx typed /tmp/typed")
    assert "to the third" in (tmp_path / "third.log").read_text()


@pytest.mark.kvm(
    uuid="1f8e6f7e-5a70-4780-89c1-464dc0e7f308",
    smbios=["type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova"],
    rtc="base=2014-04-01T00:00:00",
    machine="pc,usb=off",
    extra_args=["-fw_cfg", "name=opt/test,string=passed through"],
)
def test_identity_clock_and_extra_arguments(guest: Guest) -> None:
    """Strings of QEMU reach the guest: UUID, SMBIOS, clock, and words that were passed through."""
    assert guest.run("dmidecode -s system-uuid").stdout == "1f8e6f7e-5a70-4780-89c1-464dc0e7f308\n"
    assert guest.run("dmidecode -s system-product-name").stdout == "OpenStack Nova\n"
    assert guest.run("date -u +%Y-%m").stdout == "2014-04\n"
    assert guest.run("cat /sys/firmware/qemu_fw_cfg/by_name/opt/test/raw").stdout == "passed through"
    assert "8086:1237" in guest.run("lspci").stdout


def test_kernel_and_initrd_of_ones_own(guest_factory: Callable[..., Guest], tmp_path: Path) -> None:
    """With a foreign initrd nothing is known of what is inside: the console is there at once."""
    image = TINY.image(cache.directory(), lambda _: None)
    assert image.initrd is not None
    initrd = tmp_path / "odd, name"
    shutil.copy(image.initrd, initrd)
    guest = guest_factory(kernel=image.kernel, initrd=initrd)
    with pytest.raises(KvmError, match="has no way to run commands"):
        guest.run("true")
    guest.console.expect("tiny# ", timeout=60)
    guest.console.sendline("cat /proc/cmdline")
    guest.console.expect("console=ttyS0")


def test_uefi_firmware_runs(guest_factory: Callable[..., Guest]) -> None:
    """The kernel finds itself on UEFI."""
    guest = guest_factory(firmware="uefi", boot_timeout=120)
    assert guest.run("[ -d /sys/firmware/efi ] && echo UEFI").stdout == "UEFI\n"


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    """Tiny built twice from the same kernel, busybox and modules is the same to the byte, and boots."""
    image = TINY.image(cache.directory(), lambda _: None)
    assert image.kernel is not None
    busybox = tmp_path / "busybox"
    with Guest(GuestConfig()) as guest:
        guest.get("/bin/busybox", busybox)
        guest.get(guest.run("echo /lib/modules/*").stdout.strip(), tmp_path / "modules")
    sums = []
    for number in range(2):
        own = TINY.build_from_files(
            tmp_path / str(number),
            kernel=image.kernel,
            busybox=busybox,
            modules_tree=tmp_path / "modules",
            say=print,
        )
        assert own.initrd is not None
        sums.append(hashlib.sha256(own.initrd.read_bytes()).hexdigest())
    assert sums[0] == sums[1]
    assert own.channels == ("shell",)
