"""Which machine a guest is: the marker, parametrization, several guests, and a config of one's own."""

from pathlib import Path

import pytest

from pytest_kvm import Drive, Guest, GuestConfig, Smp


def layout(guest):
    """Read the processors' layout inside the guest: how many, in how many sockets, cores and threads."""
    cpus = guest.run("cat /sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id").stdout.split()
    cores = guest.run(
        "cd /sys/devices/system/cpu; for c in cpu[0-9]*; do cat $c/topology/thread_siblings_list; done"
    ).stdout.split()
    return len(cpus), len(set(cpus)), len(set(cores))


@pytest.mark.kvm(cpu="Nehalem,+aes", smp=Smp(sockets=2, cores=2, threads=2), memory="768M")
def test_topology(guest):
    """The marker sets any field; the guest and the monitor both see it."""
    assert layout(guest) == (8, 2, 4)
    assert len(guest.qmp.execute("query-cpus-fast")) == 8
    cpuinfo = guest.run("cat /proc/cpuinfo").stdout
    assert "Intel Core i7 9xx (Nehalem" in cpuinfo
    assert " aes " in cpuinfo


@pytest.mark.parametrize("kvm_smp", ["1", "2,sockets=2"])
def test_layouts(guest, kvm_smp):
    """A dimension can be parametrized like any fixture."""
    assert layout(guest)[:2] == (int(kvm_smp[0]),) * 2


@pytest.mark.kvm(drives=["size=64M,serial=scratch"])
def test_disk(guest):
    """An empty disk for this test alone; what the image boots from is never written."""
    disk = guest.run("grep -l '^scratch$' /sys/block/*/serial").stdout.split("/")[3]
    assert guest.run(f"cat /sys/block/{disk}/size").stdout == f"{(64 << 20) // 512}\n"
    guest.run(f"echo mine >/dev/{disk}")
    assert guest.run(f"head -c 5 /dev/{disk}").stdout == "mine\n"


def test_untouched_file(guest_factory, tmp_path):
    """A disk file is read through a throwaway layer: the guest writes, the file stays as it was."""
    content = b"original" * 1024
    Path(tmp_path, "data.img").write_bytes(content)
    guest = guest_factory(drives=[Drive(file=tmp_path / "data.img", format="raw", serial="data")])
    disk = guest.run("grep -l '^data$' /sys/block/*/serial").stdout.split("/")[3]
    guest.run(f"echo changed >/dev/{disk}; sync")
    assert guest.run(f"head -c 8 /dev/{disk}").stdout == "changed\n"
    assert Path(tmp_path, "data.img").read_bytes() == content


def test_two_guests(guest_factory, tmp_path):
    """Two guests on a network of their own."""
    wire = f"addr.type=unix,addr.path={tmp_path}/wire"
    server = guest_factory(name="server", netdevs=[f"stream,server=on,{wire}"], start=False)
    client = guest_factory(
        name="client", netdevs=[f"stream,server=off,{wire},mac=52:54:00:00:00:02"], start=False
    )
    server.start()
    client.start()
    card = "/sys/class/net/e*"
    for guest, address in ((server, "192.0.2.1"), (client, "192.0.2.2")):
        guest.run(f"card=$(basename {card}); ip link set $card up; ip address add {address}/24 dev $card")
    client.wait_until_succeeds("ping -c 1 -W 1 192.0.2.1")


def test_restart(guest):
    """Reset comes back; power-off ends QEMU."""
    guest.run("touch /run/gone")
    guest.reset()
    assert guest.run("[ -e /run/gone ]", check=False).returncode == 1
    guest.shutdown()


def test_shared(shared_guest):
    """A guest of module scope: three lines in conftest.py."""
    assert shared_guest.run("hostname").stdout == "shared\n"


def test_without_pytest(kvm_image):
    """The same guest in a plain script or at the prompt."""
    with Guest(GuestConfig(name="plain", image=kvm_image, memory="512M")) as guest:
        assert guest.run(["hostname"]).stdout == "plain\n"
        process = Path(f"/proc/{guest.pid}")
        assert process.exists()
    assert not process.exists()
