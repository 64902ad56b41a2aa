"""What a user sees of a wrong value: one line that names it, where it stands, and what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_kvm.config import GuestConfig
from pytest_kvm.errors import ConfigError

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"memry": "1G"}, 'kvm: no option "memry"; did you mean "memory"?'),
    ({"cpus": 4}, 'kvm: no option "cpus"; did you mean "cpu"?'),
    ({"frobnicate": 1}, 'kvm: no option "frobnicate"; 26 others are valid'),
    ({"drive": ["a"]}, 'kvm: no option "drive"; did you mean "drives"?'),
    ({"smp": "4,sokets=2"}, 'smp "4,sokets=2": no option "sokets"; did you mean "sockets"?'),
    ({"smp": "four"}, 'smp: cpus: "four" is not a whole number of 1 or more'),
    ({"smp": "0"}, 'smp: cpus: "0" is not a whole number of 1 or more'),
    ({"smp": "-1"}, 'smp: cpus: "-1" is not a whole number of 1 or more'),
    ({"smp": "4,cores=x"}, 'smp: cores: "x" is not a whole number of 1 or more'),
    ({"smp": "4,sockets=3"}, "smp: sockets=3 makes 3 processors, cpus says 4; make them agree"),
    ({"smp": "8,maxcpus=4"}, "smp: cpus=8 do not fit into maxcpus=4"),
    (
        {"smp": "3,sockets=2,cores=2"},
        "smp: sockets=2 x cores=2 makes 4 processors, cpus says 3; make them agree",
    ),
    ({"smp": "4,threads=0"}, 'smp: threads: "0" is not a whole number of 1 or more'),
    ({"smp": "4,cores=2,cores=2"}, 'smp "4,cores=2,cores=2": "cores" is given 2 times; keep one'),
    ({"smp": {"socket": 2}}, 'Smp: no option "socket"; did you mean "sockets"?'),
    ({"smp": [2]}, "smp: [2] is neither a Smp nor QEMU's string"),
    ({"smp": True}, "smp: True is neither a Smp nor QEMU's string"),
    ({"smp": "4,=2"}, '"4,=2": an option without a name at "=2"; write key=value'),
    (
        {"smp": "6,maxcpus=8,sockets=3,cores=2"},
        "smp: sockets=3 x cores=2 makes 6 processors, maxcpus says 8; make them agree",
    ),
    ({"smp": 2.5}, "smp: 2.5 is neither a Smp nor QEMU's string"),
    (
        {"smp": "2,clusters=2"},
        'smp "2,clusters=2": no option "clusters"; valid: cores, cpus, dies, maxcpus, sockets, threads',
    ),
    ({"cpu": ""}, 'cpu: "" is not a model; write for example EPYC,+avx2'),
    ({"cpu": "model=EPYC"}, 'cpu: "model=EPYC" is not a model; write for example EPYC,+avx2'),
    ({"cpu": "EPYC,+"}, 'cpu "EPYC,+": a flag without a name at "+"; write +avx2 or avx2=on'),
    ({"cpu": "EPYC,=on"}, 'cpu "EPYC,=on": a flag without a name at "=on"; write +avx2 or avx2=on'),
    ({"cpu": ["EPYC"]}, "cpu: ['EPYC'] is neither a Cpu nor QEMU's string"),
    ({"cpu": {"modell": "EPYC"}}, 'Cpu: no option "modell"; did you mean "model"?'),
    ({"machine": ""}, 'machine "": names no machine; write for example q35,hpet=off'),
    ({"machine": "pc,accel=kvm"}, "machine: accel=kvm belongs to accel= (or --kvm-accel)"),
    ({"machine": ",usb=off"}, 'machine ",usb=off": names no machine; write for example q35,hpet=off'),
    ({"machine": "pc,usb=off,usb=on"}, 'machine "pc,usb=off,usb=on": "usb" is given 2 times; keep one'),
    ({"machine": "pc,=off"}, '"pc,=off": an option without a name at "=off"; write key=value'),
    ({"machine": {"kind": "pc"}}, 'Machine: no option "kind"; valid: options, type'),
    ({"memory": "lots"}, 'memory: "lots" is not a size; write for example 512M or 2G'),
    ({"memory": "0"}, 'memory: "0" is no room at all; write for example 512M or 2G'),
    ({"memory": "-512M"}, 'memory: "-512M" is not a size; write for example 512M or 2G'),
    ({"memory": "512 M"}, 'memory: "512 M" is not a size; write for example 512M or 2G'),
    ({"memory": "512X"}, 'memory: "512X" is not a size; write for example 512M or 2G'),
    ({"memory": ""}, 'memory: "" is not a size; write for example 512M or 2G'),
    ({"memory": True}, 'memory: "True" is not a size; write for example 512M or 2G'),
    ({"memory": [512]}, 'memory: "[512]" is not a size; write for example 512M or 2G'),
    ({"accel": "xen"}, 'accel: no option "xen"; valid: auto, kvm, tcg'),
    ({"accel": "KVM"}, 'accel: no option "KVM"; valid: auto, kvm, tcg'),
    ({"accel": 1}, 'accel: no option "1"; valid: auto, kvm, tcg'),
    ({"drives": "data.qcow2"}, "drives: 'data.qcow2' is not a list; write drives=[...]"),
    ({"drives": 5}, "drives: 5 is not a list; write drives=[...]"),
    ({"drives": {"file": "a"}}, "drives: {'file': 'a'} is not a list; write drives=[...]"),
    ({"drives": [""]}, "drive: needs either a file or, for an empty disk, a size"),
    ({"drives": ["file="]}, "drive: file: '' is not a path"),
    ({"drives": ["a,format=vmdk"]}, 'drive: format "vmdk" is neither "raw" nor "qcow2"'),
    ({"drives": ["a,cache=writback"]}, 'drive: cache: no option "writback"; did you mean "writeback"?'),
    ({"drives": ["a,readonly=maybe"]}, 'drive: readonly: "maybe" is neither "on" nor "off"'),
    ({"drives": ["a,bootindex=-1"]}, 'drive: bootindex: "-1" is not a whole number of 0 or more'),
    ({"drives": ["a,bootindex=first"]}, 'drive: bootindex: "first" is not a whole number of 0 or more'),
    ({"drives": ["size=0"]}, 'drive: size: "0" is no room at all; write for example 512M or 2G'),
    ({"drives": ["size=big"]}, 'drive: size: "big" is not a size; write for example 512M or 2G'),
    ({"drives": ["a,size=1G"]}, "drive: needs either a file or, for an empty disk, a size"),
    ({"drives": ["a,fmt=raw"]}, 'drive "a,fmt=raw": no option "fmt"; did you mean "format"?'),
    (
        {"drives": ["a,id=0disk"]},
        'drive: id "0disk" must start with a letter and hold only letters, digits, -._',
    ),
    ({"drives": ["a,serial=x,serial=y"]}, 'drive "a,serial=x,serial=y": "serial" is given 2 times; keep one'),
    (
        {"drives": [{"path": "a"}]},
        (
            'Drive: no option "path"; valid: bootindex, cache, device, file, format, id, overlay, readonly, '
            "serial, size"
        ),
    ),
    ({"drives": [None]}, "drive: None is neither a Drive nor QEMU's string"),
    ({"drives": ["a,id=x", "b,id=x"]}, 'id "x" is given to two devices; each needs its own'),
    ({"drives": [{"file": "a", "readonly": "maybe"}]}, 'drive: readonly: "maybe" is neither "on" nor "off"'),
    ({"netdevs": "user"}, "netdevs: 'user' is not a list; write netdevs=[...]"),
    ({"netdevs": [""]}, 'netdev: "" is no back end; write for example user,restrict=on'),
    ({"netdevs": ["user,mac=52:54:00"]}, 'netdev: mac "52:54:00" is not an address; write 52:54:00:12:34:56'),
    (
        {"netdevs": ["user,mac=52:54:00:12:34:5g"]},
        'netdev: mac "52:54:00:12:34:5g" is not an address; write 52:54:00:12:34:56',
    ),
    (
        {"netdevs": ["user,id=a b"]},
        'netdev: id "a b" must start with a letter and hold only letters, digits, -._',
    ),
    ({"netdevs": ["restrict=on"]}, 'netdev: "" is no back end; write for example user,restrict=on'),
    ({"netdevs": ["user,mac=a,mac=b"]}, 'netdev "user,mac=a,mac=b": "mac" is given 2 times; keep one'),
    ({"netdevs": [{"backen": "user"}]}, 'NetDev: no option "backen"; did you mean "backend"?'),
    ({"netdevs": ["user,=x"]}, '"user,=x": an option without a name at "=x"; write key=value'),
    ({"netdevs": ["user,id=a"], "drives": ["d,id=a"]}, 'id "a" is given to two devices; each needs its own'),
    ({"serials": ["sokcet"]}, 'serial: backend: no option "sokcet"; did you mean "socket"?'),
    ({"serials": ["file"]}, 'serial: a path goes with the back end "file", here is "file"'),
    ({"serials": ["pty:/x"]}, 'serial: a path goes with the back end "file", here is "pty"'),
    ({"serials": ["socket,ide=x"]}, 'serial "socket,ide=x": no option "ide"; did you mean "id"?'),
    (
        {"serials": ["null,id=1"]},
        'serial: id "1" must start with a letter and hold only letters, digits, -._',
    ),
    ({"serials": "pty"}, "serials: 'pty' is not a list; write serials=[...]"),
    ({"numa": ["nodes"]}, 'numa: no option "nodes"; did you mean "node"?'),
    ({"numa": ["node,mem=x"]}, 'numa: memory: "x" is not a size; write for example 512M or 2G'),
    ({"numa": ["node,mem=1G,mem=2G"]}, 'numa "node,mem=1G,mem=2G": "mem" is given 2 times; keep one'),
    ({"numa": "node"}, "numa: 'node' is not a list; write numa=[...]"),
    ({"numa": [{"mem": "1G"}]}, 'Numa: no option "mem"; did you mean "memory"?'),
    ({"kernel": ""}, "kernel: '' is not a path"),
    ({"kernel": 5}, "kernel: 5 is not a path"),
    ({"initrd": b"x"}, "initrd: b'x' is not a path"),
    ({"append": ["quiet"]}, "append: ['quiet'] is not a text"),
    ({"append": "a\x00b"}, "append: 'a\\x00b' is not a text"),
    ({"firmware": 1}, "firmware: 1 is not a text"),
    ({"uuid": "xyz"}, 'uuid: "xyz" is not a UUID'),
    ({"smbios": "type=1"}, "smbios: 'type=1' is not a list; write smbios=[...]"),
    ({"smbios": [1]}, "smbios: 1 is not a text"),
    ({"rtc": 5}, "rtc: 5 is not a text"),
    ({"boot": ["a"]}, "boot: ['a'] is not a text"),
    ({"display": 0}, "display: 0 is not a text"),
    ({"devices": "VGA"}, "devices: 'VGA' is not a list; write devices=[...]"),
    ({"devices": [{"driver": "VGA"}]}, "devices: {'driver': 'VGA'} is not a text"),
    ({"extra_args": "-s"}, "extra_args: '-s' is not a list; write extra_args=[...]"),
    ({"extra_args": [b"-s"]}, "extra_args: b'-s' is not a text"),
    ({"name": ""}, "name: '' cannot name a guest; use letters, digits and dashes"),
    ({"name": "a/b"}, "name: 'a/b' cannot name a guest; use letters, digits and dashes"),
    ({"name": ".."}, "name: '..' cannot name a guest; use letters, digits and dashes"),
    ({"name": 5}, "name: 5 is not a text"),
    ({"name": "  "}, "name: '  ' cannot name a guest; use letters, digits and dashes"),
    ({"image": ""}, "image: '' is neither a path nor a name"),
    ({"image": 5}, "image: 5 is neither a path nor a name"),
    ({"arch": 64}, "arch: 64 is not a text"),
    ({"boot_timeout": 0}, "boot_timeout: 0 is not a number above 0"),
    ({"boot_timeout": "soon"}, "boot_timeout: 'soon' is not a number above 0"),
    ({"boot_timeout": -1}, "boot_timeout: -1 is not a number above 0"),
    ({"timeout_scale": True}, "timeout_scale: True is not a number above 0"),
    ({"kernel": "a\x00b"}, "kernel: 'a\\x00b' is not a path"),
    ({"drives": ["a\x00b"]}, "drive: file: 'a\\x00b' is not a path"),
    ({"name": "a b"}, "name: 'a b' cannot name a guest; use letters, digits and dashes"),
    ({"name": "a\nb"}, "name: 'a\\nb' cannot name a guest; use letters, digits and dashes"),
    ({"drives": [{"file": 5}]}, "drive: file: 5 is not a path"),
    ({"serials": [{"backend": "file", "path": 5}]}, "serial: path: 5 is not a path"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_a_wrong_value_is_named(given: dict[str, Any], message: str) -> None:
    """The message is one line and says exactly this."""
    with pytest.raises(ConfigError) as caught:
        GuestConfig.of(**given)
    assert str(caught.value) == message
    assert "\n" not in message


@pytest.mark.parametrize(
    "given",
    [
        {"cpu": {"features": {"avx2": True}}},
        {"cpu": {"model": 5}},
        {"cpu": {"model": "EPYC", "features": ["avx2"]}},
        {"machine": {"type": "pc", "options": "usb=off"}},
        {"netdevs": [{"backend": 5}]},
        {"netdevs": [{"options": "restrict=on"}]},
        {"netdevs": [{"mac": 5}]},
        {"netdevs": [{"id": 5}]},
        {"numa": [{"options": ["x"]}]},
    ],
)
def test_a_value_of_the_wrong_type_in_a_mapping_is_shown(given: dict[str, Any]) -> None:
    """Python's own complaint about a type becomes a ConfigError that names the wrong value."""
    with pytest.raises(ConfigError) as caught:
        GuestConfig.of(**given)
    (value,) = given.values()
    assert "\n" not in str(caught.value)
    inner = value[0] if isinstance(value, list) else value
    assert repr(inner) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1, "soon", True, None.__class__])
def test_a_timeout_is_a_finite_number_above_zero(value: object) -> None:
    """Nothing else can be waited for."""
    for field in ("boot_timeout", "timeout_scale"):
        with pytest.raises(ConfigError, match=f"^{field}: .* is not a number above 0$"):
            GuestConfig.of(**{field: value})


def test_the_first_wrong_option_is_named_with_its_neighbour() -> None:
    """Several mistakes are told one at a time, in the order in which they were written."""
    with pytest.raises(ConfigError, match='no option "sokets"; did you mean "sockets"'):
        GuestConfig.of(smp="4,sokets=2,coers=2")
