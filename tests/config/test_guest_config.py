"""A guest's whole configuration: conversion, defaults, and being frozen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pytest_kvm.config import Cpu, Drive, GuestConfig, Machine, NetDev, Numa, Serial, Smp
from pytest_kvm.errors import ConfigError

FULL: dict[str, Any] = {
    "name": "web",
    "image": "tiny",
    "arch": "x86_64",
    "machine": "q35,hpet=off",
    "accel": "tcg",
    "cpu": "EPYC,+avx2",
    "smp": "4,sockets=2",
    "memory": "512M",
    "numa": ["node,cpus=0-3,mem=512M"],
    "drives": ["data.qcow2,id=data"],
    "netdevs": ["user,id=lan"],
    "serials": ["pty,id=tty1"],
    "kernel": "/boot/vmlinuz",
    "initrd": "/boot/initrd",
    "append": "quiet",
    "firmware": "uefi",
    "uuid": "12345678-1234-5678-1234-567812345678",
    "smbios": ["type=1,serial=x"],
    "rtc": "base=utc",
    "boot": "menu=off",
    "display": "none",
    "devices": ["VGA"],
    "extra_args": ["-no-reboot"],
    "qemu": "qemu-system-x86_64",
    "boot_timeout": 30,
    "timeout_scale": 2.5,
}


def test_every_field_has_a_string_form() -> None:
    """QEMU's own option string does for every field."""
    assert {field.name for field in dataclasses.fields(GuestConfig)} == set(FULL)
    config = GuestConfig(**FULL)
    assert config.machine == Machine(type="q35", options={"hpet": "off"})
    assert config.cpu == Cpu(model="EPYC", features={"avx2": True})
    assert config.smp == Smp(cpus=4, sockets=2)
    assert config.numa == (Numa(cpus="0-3", memory="512M"),)
    assert config.drives == (Drive(file=Path("data.qcow2"), id="data"),)
    assert config.netdevs == (NetDev(id="lan"),)
    assert config.serials == (Serial(backend="pty", id="tty1"),)
    assert (config.kernel, config.initrd) == (Path("/boot/vmlinuz"), Path("/boot/initrd"))
    assert (config.boot_timeout, config.timeout_scale) == (30.0, 2.5)


@pytest.mark.parametrize(
    ("field", "mapping", "string"),
    [
        ("machine", {"type": "pc", "options": {"usb": "off"}}, "pc,usb=off"),
        ("cpu", {"model": "EPYC", "features": {"avx2": False}}, "EPYC,-avx2"),
        ("smp", {"cpus": 4, "sockets": "2"}, "4,sockets=2"),
        ("drives", [{"file": "a.img", "format": "raw", "readonly": "on"}], ["a.img,format=raw,readonly=on"]),
        ("netdevs", [{"backend": "user", "options": {"restrict": "on"}}], ["user,restrict=on"]),
        ("serials", [{"backend": "file", "path": "/tmp/x"}], ["file:/tmp/x"]),
        ("numa", [{"cpus": "0", "memory": 64}], ["node,cpus=0,mem=64M"]),
    ],
)
def test_mappings_and_strings_say_the_same(field: str, mapping: Any, string: Any) -> None:
    """A mapping of a type's fields, as JSON or TOML would give it, equals QEMU's string."""
    assert GuestConfig.of(**{field: mapping}) == GuestConfig.of(**{field: string})


@pytest.mark.parametrize("value", [4, "4", Smp(cpus=4), {"cpus": 4}])
def test_smp_takes_a_plain_number(value: Any) -> None:
    """``smp=4`` is what most people write."""
    assert GuestConfig(smp=value).smp == Smp(cpus=4)


@pytest.mark.parametrize(
    ("given", "canonical"), [("1024M", "1G"), (1024, "1G"), ("1.5G", "1536M"), ("512", "512M")]
)
def test_memory_has_one_form(given: Any, canonical: str) -> None:
    """Two spellings of one size make equal configs, and so one frozen guest."""
    assert GuestConfig(memory=given).memory == canonical


def test_a_path_is_a_drive() -> None:
    """``drives=[tmp_path / "a.img"]`` names a file, whatever its name holds."""
    (drive,) = GuestConfig(drives=[Path("a,b=c.img")]).drives
    assert drive == Drive(file=Path("a,b=c.img"))


def test_lists_become_tuples() -> None:
    """A config holds nothing that could change under it; any iterable will do."""
    config = GuestConfig.of(devices=["VGA"], smbios=iter(["type=1"]), netdevs=[])
    assert (config.devices, config.smbios, config.netdevs) == (("VGA",), ("type=1",), ())


def test_no_netdevs_is_not_the_same_as_none_given() -> None:
    """``()`` is a guest without a card; ``None`` leaves it to the image."""
    assert GuestConfig().netdevs is None
    assert GuestConfig.of(netdevs=[]).netdevs == ()


def test_a_config_is_frozen() -> None:
    """No attribute can be set, nor a new one added."""
    config = GuestConfig(memory="1G")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.memory = "2G"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        config.color = "red"  # type: ignore[attr-defined]
    for part in (Smp(), Cpu(model="EPYC"), Machine(), Drive(size="1G"), NetDev(), Serial(), Numa()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, None)


def test_checking_a_config_again_changes_nothing() -> None:
    """``dataclasses.replace`` without changes gives an equal config, however it was first given."""
    config = GuestConfig(**FULL)
    assert dataclasses.replace(config) == config
    assert dataclasses.replace(dataclasses.replace(config, memory="1G"), memory="512M") == config


def test_with_changes_one_thing() -> None:
    """The rest stays, and the original is untouched."""
    config = GuestConfig(**FULL)
    other = config.with_(smp="2")
    assert (other.smp, other.cpu, config.smp) == (Smp(cpus=2), config.cpu, Smp(cpus=4, sockets=2))


def test_ids_are_unique_across_kinds() -> None:
    """A drive and a card cannot share an id: QEMU has one name space for their devices."""
    with pytest.raises(ConfigError, match='id "a" is given to two devices'):
        GuestConfig.of(drives=["x,id=a"], serials=["pty,id=a"])


@pytest.mark.parametrize("name", ["guest0", "web-1", "web.example", "größe", "a,b"])
def test_names_that_can_name_a_guest(name: str) -> None:
    """A name is a word without spaces or slashes."""
    assert GuestConfig(name=name).name == name
