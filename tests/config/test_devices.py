"""Disks, cards, serial ports and NUMA nodes: each in the string form and in the type's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm.config import Drive, NetDev, Numa, Serial
from pytest_kvm.config.devices import CACHE_MODES
from pytest_kvm.config.options import escape

file_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.qcow2", Drive(file=Path("data.qcow2"))),
        ("file=data.img,format=raw", Drive(file=Path("data.img"), format="raw")),
        ("a,,b.img,cache=none", Drive(file=Path("a,b.img"), cache="none")),
        ("a.img,readonly=on,overlay=off", Drive(file=Path("a.img"), readonly=True, overlay=False)),
        ("a.img,readonly", Drive(file=Path("a.img"), readonly=True)),
        ("a.img,serial=S1,bootindex=2", Drive(file=Path("a.img"), serial="S1", bootindex=2)),
        ("a.img,device=scsi-hd,id=sys", Drive(file=Path("a.img"), device="scsi-hd", id="sys")),
        ("size=1G", Drive(size="1G")),
        ("size=1048576", Drive(size="1M")),
    ],
)
def test_drive_strings(text: str, expected: Drive) -> None:
    """A drive's string form and its fields are two spellings of one thing."""
    assert Drive.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user", NetDev(backend="user")),
        ("user,restrict=on", NetDev(options={"restrict": "on"})),
        ("user,model=e1000", NetDev(device="e1000")),
        ("user,device=rtl8139,model=e1000", NetDev(device="rtl8139")),
        ("user,mac=52:54:00:12:34:56,id=lan", NetDev(mac="52:54:00:12:34:56", id="lan")),
        ("tap,ifname=tap0,script=no", NetDev(backend="tap", options={"ifname": "tap0", "script": "no"})),
        ("user,hostfwd=a,hostfwd=b", NetDev(options={"hostfwd": ["a", "b"]})),
        ("type=user", NetDev()),
    ],
)
def test_netdev_strings(text: str, expected: NetDev) -> None:
    """The card's options are taken out; the rest is the back end's, in QEMU's words."""
    assert NetDev.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("socket", Serial()),
        ("pty,id=tty1", Serial(backend="pty", id="tty1")),
        ("null,device=virtconsole", Serial(backend="null", device="virtconsole")),
        ("file:/tmp/a:b.log,id=log", Serial(backend="file", path=Path("/tmp/a:b.log"), id="log")),
        ("backend=file,path=/tmp/x", Serial(backend="file", path=Path("/tmp/x"))),
        ("device=pci-serial", Serial(device="pci-serial")),
    ],
)
def test_serial_strings(text: str, expected: Serial) -> None:
    """A serial port's string form is QEMU's, with the device after it."""
    assert Serial.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node,cpus=0-1,mem=128M", Numa(cpus="0-1", memory="128M")),
        ("node,mem=128", Numa(memory="128M")),
        ("node,cpus=0,cpus=2", Numa(options={"cpus": ["0", "2"]})),
        ("node,nodeid=1", Numa(options={"nodeid": "1"})),
        (
            "dist,src=0,dst=1,val=20",
            Numa(kind="dist", options={"src": "0", "dst": "1", "val": "20"}),
        ),
        ("cpu,node-id=0,socket-id=0", Numa(kind="cpu", options={"node-id": "0", "socket-id": "0"})),
    ],
)
def test_numa_strings(text: str, expected: Numa) -> None:
    """A node's processors and memory are ours to know; every other kind stays in QEMU's words."""
    assert Numa.parse(text) == expected


@given(file_names)
@settings(max_examples=200, deadline=None)
def test_any_file_name_survives_the_string_form(name: str) -> None:
    """With its commas doubled, any file name gets through."""
    assert Drive.parse(f"file={escape(name)},format=raw").file == Path(name)


@given(
    st.builds(
        Drive,
        file=file_names.map(Path),
        format=st.sampled_from([None, "raw", "qcow2"]),
        cache=st.sampled_from([None, *CACHE_MODES]),
        readonly=st.booleans(),
        overlay=st.booleans(),
        bootindex=st.one_of(st.none(), st.integers(0, 99)),
    )
)
@settings(max_examples=100, deadline=None)
def test_checking_a_drive_again_changes_nothing(drive: Drive) -> None:
    """``dataclasses.replace`` without changes gives an equal drive."""
    assert dataclasses.replace(drive) == drive


@pytest.mark.parametrize(("word", "value"), [("on", True), ("off", False), ("yes", True), ("false", False)])
def test_switches_of_a_drive_may_be_words(word: str, value: bool) -> None:
    """``readonly="off"`` is off, although the text is true to Python."""
    drive = Drive(file=Path("a"), readonly=word, overlay=word)  # type: ignore[arg-type]
    assert (drive.readonly, drive.overlay) == (value, value)


def test_options_are_a_copy() -> None:
    """Changing the dictionary afterwards does not change the card."""
    given_options: dict[str, str | list[str]] = {"restrict": "on"}
    card = NetDev(options=given_options)
    given_options["restrict"] = "off"
    assert card.options == {"restrict": "on"}
